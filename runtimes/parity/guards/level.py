"""The level `guards`: what has to be refused is, by an error of this package, and leaves the state alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import CausalRNError, GpuFailureError, NotExecutedError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import same_bits, same_tensors
from causalrn.runtimes.parity.figures import Figures, GuardFigures
from causalrn.runtimes.parity.guards.damaged_bundles import damaged_bundle_guards
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot

_MOST_POSITION, _MOST_ROWS = 12, 2
_OTHER = "0" * 64


def check_guards(
    runtime: str,
    tokens: IntArray,
    open_again: Callable[[], CellSession],
    bundle: Path | None,
    deadline: float = math.inf,
) -> LevelResult:
    """Make every call that has to be refused, and open every bundle that has to be.

    Args:
        runtime: name of the result.
        tokens: int64 [B, T], to have a state from.
        open_again: opens a session.
        bundle: folder to make damaged copies of, in a temporary place; None makes none.
        deadline: of `time.monotonic`; copies that it leaves no time for are counted.
    """
    try:
        return _check_guards(runtime, tokens, open_again, bundle, deadline)
    except (GpuFailureError, NotExecutedError):
        raise
    except CausalRNError as error:  # of a call that should not have been refused
        return LevelResult("guards", runtime, False, str(error))


def _check_guards(
    runtime: str, tokens: IntArray, open_again: Callable[[], CellSession], bundle: Path | None, deadline: float
) -> LevelResult:
    with open_again() as session:
        rows = tokens[: min(_MOST_ROWS, session.max_batch or _MOST_ROWS)].copy()
        figures = _session_guards(session, rows)
    figures.append(_closed_guard(session))
    left = 0
    if bundle is not None:
        of_bundle, left = damaged_bundle_guards(bundle, deadline, runtime)
        figures += of_bundle
    failed = [figure for figure in figures if not figure.passed]
    words = f"{len(figures)} refused" if not failed else f"{failed[0].name}: {failed[0].outcome}"
    words += f"; no time was left for {left} damaged bundles" if left else ""
    return LevelResult("guards", runtime, not failed and bool(figures), words, figures=Figures(guards=tuple(figures)))


@dataclass(frozen=True)
class _State:
    """Everything a session shows of its state."""

    position: int
    batch: int
    last: FloatArray | None
    tensors: dict[str, Array]

    @classmethod
    def of(cls, session: CellSession) -> _State:
        return cls(session.position, session.batch, session.last_logits, dict(session.snapshot().tensors))

    def equals(self, other: _State) -> bool:
        """Bit for bit."""
        same = (self.position, self.batch) == (other.position, other.batch) and same_bits(self.last, other.last)
        return same and same_tensors(self.tensors, other.tensors)


def _session_guards(session: CellSession, tokens: IntArray) -> list[GuardFigures]:
    """Each call in the middle of a sequence; what follows equals an undisturbed run bit for bit."""
    middle = max(1, min(_MOST_POSITION, tokens.shape[1] // 2))
    following, undisturbed = tokens[:, middle], []
    for _ in range(2):  # the second run tells whether this runtime repeats itself at all
        session.reset(len(tokens))
        session.prefill(tokens[:, :middle])
        start = session.snapshot()
        undisturbed.append(session.step(following))
    repeats = same_bits(*undisturbed)
    figures = []
    with temporary_folder() as folder:
        for name, call in _bad_calls(session, tokens, start, folder):
            session.restore(start)
            before = _State.of(session)
            outcome = _refused(call)
            if not outcome and not _State.of(session).equals(before):
                outcome = "refused, and the state has changed"
            if not outcome:
                outcome = _continues(session, following, undisturbed[0] if repeats else None)
            figures.append(GuardFigures(name, not outcome, outcome or "refused"))
    figures += _at_capacity(session, start)
    return figures


def _refused(call: Callable[[], object]) -> str:
    """Why a call was not refused as it should be; empty where it was."""
    try:
        call()
    except (GpuFailureError, NotExecutedError):
        raise
    except CausalRNError:
        return ""
    except Exception as error:  # whatever comes out of a runtime
        return f"{type(error).__name__} instead of an error of this package"
    return "not refused"


def _continues(session: CellSession, following: IntArray, expected: FloatArray | None) -> str:
    """What is wrong with the step after a refused call; empty where nothing is."""
    try:
        logits = session.step(following)
    except CausalRNError as error:
        return f"refused, and then: {error}"
    return "" if expected is None or same_bits(logits, expected) else "refused, and other logits come after it"


def _bad_calls(
    session: CellSession, tokens: IntArray, start: Snapshot, folder: Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What every session has to refuse, in the middle of a sequence."""
    batch, vocabulary = len(tokens), session.card.config.vocabulary
    ones: Any = np.ones((batch, 3), np.int64)
    beyond = ones.copy()
    beyond[-1, -1] = vocabulary
    yield "token id beyond the vocabulary", lambda: session.prefill(beyond)
    yield "token id beyond the vocabulary, a step", lambda: session.step(np.full(batch, vocabulary))
    yield "token id far beyond", lambda: session.step(np.full(batch, 2**40))
    yield "negative token id", lambda: session.prefill(-ones)
    yield "negative token id, a step", lambda: session.step(np.full(batch, -1))
    yield "tokens of floats", lambda: session.prefill(ones.astype(np.float32))
    yield "tokens of floats, a step", lambda: session.step(np.ones(batch))
    yield "tokens of booleans", lambda: session.prefill(ones.astype(bool))
    yield "tokens of text", lambda: session.prefill(ones.astype(str))
    yield "too many rows", lambda: session.prefill(np.ones((batch + 1, 2), np.int64))
    yield "too many rows, a step", lambda: session.step(np.ones(batch + 1, np.int64))
    yield "no tokens", lambda: session.prefill(ones[:, :0])
    yield "tokens of one axis", lambda: session.prefill(ones[0])
    yield "tokens of three axes", lambda: session.prefill(ones[None])
    yield "a step of several tokens", lambda: session.step(ones)
    yield "rows of several lengths", lambda: session.prefill([[1, 1], [1]])
    yield "no sequences", lambda: session.reset(0)
    yield "a fraction of sequences", lambda: session.reset(1.5)  # type: ignore[arg-type]
    if session.max_batch is not None:
        yield "more sequences than the limit", lambda: session.reset((session.max_batch or 0) + 1)
    if session.capacity is not None:
        over = session.capacity - start.position + 1
        yield "one token beyond the capacity", lambda: session.prefill(np.ones((batch, over), np.int64))
        yield "generation beyond the capacity", lambda: list(session.generate(np.ones((batch, over), np.int64)))
    yield "generation of no tokens", lambda: list(session.generate(None, max_new_tokens=0))
    yield from _bad_states(session, start)
    yield from _bad_files(session, start, folder)


def _bad_states(session: CellSession, start: Snapshot) -> Iterator[tuple[str, Callable[[], object]]]:
    """Snapshots that are not this session's."""
    first, *_ = start.tensors
    value, replaced = start.tensors[first], dataclasses.replace
    bad = {
        "a state of another owner": replaced(start, owner=_OTHER, checkpoint=_OTHER),
        "a state of another arithmetic": replaced(start, owner=_OTHER, arithmetic="w2"),
        "a state of another shape": _with(start, first, value[..., :-1]),
        "a state of another dtype": _with(start, first, value.astype(np.float64)),
        "a state that lacks a tensor": replaced(start, tensors={n: v for n, v in start.tensors.items() if n != first}),
        "a state with one tensor too many": replaced(start, tensors={**start.tensors, "99.pool": value}),
        "a state of another batch": replaced(start, batch=start.batch + 1),
        "a state at a negative position": replaced(start, position=-1),
    }
    if session.spec.has_pool:
        bad["a state at another position"] = replaced(start, position=start.position - 1)
    if session.capacity is not None:
        bad["a state beyond the capacity"] = replaced(start, position=session.capacity + 1)
    if start.logits is not None:
        bad["last logits that are no numbers"] = replaced(start, logits=start.logits * np.nan)
        bad["last logits of another shape"] = replaced(start, logits=start.logits[:, :-1])
    for name, values in start.tensors.items():
        if values.dtype.kind == "f" and values.size:
            for words, number in (("NaN", np.nan), ("infinity", np.inf)):
                damaged = values.copy()
                damaged.flat[damaged.size // 2] = number
                bad[f"{words} in a restored state"] = _with(start, name, damaged)
    for words, snapshot in bad.items():
        yield words, lambda snapshot=snapshot: session.restore(snapshot)  # type: ignore[misc]


def _with(snapshot: Snapshot, name: str, value: Array) -> Snapshot:
    return dataclasses.replace(snapshot, tensors={**snapshot.tensors, name: value})


def _bad_files(session: CellSession, start: Snapshot, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """State files that are damaged, of another version, or no state files."""
    good, damaged = folder / "state.safetensors", folder / "damaged.safetensors"
    session.restore(start)
    session.save(good)
    content, tensors = good.read_bytes(), load_file(good)
    with safe_open(good, framework="numpy") as file:
        metadata = dict(file.metadata() or {})

    def load(words: str) -> tuple[str, Callable[[], object]]:
        return words, lambda: session.load(damaged)

    damaged.write_bytes(content[: len(content) // 2])
    yield load("half a state file")
    damaged.write_bytes(b"nothing")
    yield load("a file that is no state file")
    for words, entries in (
        ("a state file of a later version", {"version": "2"}),
        ("a state file of another owner", {"owner": _OTHER, "checkpoint": _OTHER}),
        ("a state file of another arithmetic", {"owner": _OTHER, "arithmetic": "w2"}),
        ("a state file of another format", {"format": "another"}),
    ):
        save_file(tensors, damaged, {**metadata, **entries})
        yield load(words)
    yield "no state file", lambda: session.load(folder / "missing.safetensors")


def _at_capacity(session: CellSession, start: Snapshot) -> list[GuardFigures]:
    """A step and generation where no position is left; the full state is one of zeros."""
    if session.capacity is None:
        return []
    name, position = "a step at the capacity", session.capacity
    try:
        tensors = {
            tensor.name: np.zeros(tensor.given(batch=1, rows=position), start.tensors[tensor.name].dtype)
            for tensor in session.spec.tensors
        }
        full = Snapshot(position, 1, tensors, None, session.owner)
        session.restore(full)
        outcome = _refused(lambda: session.step([1])) or _refused(lambda: session.prefill([[1, 1]]))
        changed = not outcome and not _same_tensors(session, full)
    except CausalRNError as error:
        outcome, changed = f"a full state cannot be restored: {error}", False
    outcome = "refused, and the state has changed" if changed else outcome
    return [GuardFigures(name, not outcome, outcome or "refused")]


def _same_tensors(session: CellSession, full: Snapshot) -> bool:
    now = session.snapshot()
    return now.position == full.position and same_tensors(now.tensors, full.tensors)


def _closed_guard(session: CellSession) -> GuardFigures:
    """Every call of a session that has been closed."""
    calls: dict[str, Callable[[], object]] = {
        "step": lambda: session.step([1]),
        "prefill": lambda: session.prefill([[1]]),
        "reset": session.reset,
        "snapshot": session.snapshot,
        "generate": lambda: list(session.generate(None)),
    }
    for name, call in calls.items():
        outcome = _refused(call)
        if outcome:
            return GuardFigures("a closed session", False, f"{name}: {outcome}")
    return GuardFigures("a closed session", True, "refused")
