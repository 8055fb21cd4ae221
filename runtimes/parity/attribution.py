"""Where a failure begins, and which side is wrong.

The step at which something first leaves its tolerance is computed again in several ways: with the state as it was
carried there, with the exact state fed in (then only a local error can show), by other forms, and by the graph itself
in float64. Which of them go wrong names the culprit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from causalrn.errors import RuntimeUnavailableError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import Deviation, compare_run, computation_order
from causalrn.runtimes.parity.levels import Driven
from causalrn.runtimes.parity.reference import LOGITS, Bounds, Reference, States, compared_tensors, run_in_chunks
from causalrn.runtimes.parity.results import Attribution, LevelResult, Side
from causalrn.runtimes.session import IntArray, Session

StateSource = Callable[[IntArray, Iterable[int]], States]
"""Exact states at further positions: (tokens, positions) -> states."""

_MOST_STATE_BYTES = 256 << 20


@dataclass(frozen=True)
class Witnesses:
    """What a failing form can be compared with.

    Attributes:
        peers: other forms, e.g. "parallel" and "recurrent"; compared from the exact state.
        graph: the bundle's graph in float64; None where onnx is not installed.
        states: exact states at any position; None where only the reference's own are known.
    """

    peers: Mapping[str, Session]
    graph: CellSession | None = None
    states: StateSource | None = None


def attribute_failure(result: LevelResult, session: Session, driven: Driven, witnesses: Witnesses) -> Attribution:
    """Find where a failed level first goes wrong, and why.

    Args:
        result: of the level; it has failed.
        session: the form that failed.
        driven: how the level drove it.
    """
    part, lengths = _failing_part(session, driven)
    part = _with_dense_states(part, lengths, session, witnesses)
    own = Side(session.runtime, "own", tuple(_deviations(session, part, lengths)))
    first = _earliest(own.deviations)
    if first is None or first.first_bad_step is None:
        sentence = "the failure did not repeat when the run was looked at closely: it is not deterministic"
        return Attribution(result.level, result.form, result.step or 0, "", "", "unknown", sentence, (own,))
    start, length = _chunk_around(lengths, first.first_bad_step)
    sides = [own, *_sides_from_exact(session, part, start, length, witnesses)]
    cause, sentence = _judge(session, first, sides)
    return Attribution(
        result.level,
        result.form,
        first.first_bad_step,
        first.tensor,
        first.place,
        cause,
        f"{_where(first, length)}: {sentence}",
        tuple(sides),
    )


def _failing_part(session: Session, driven: Driven) -> tuple[Reference, tuple[int, ...]]:
    """The first run that is out of tolerance, and how it was chunked."""
    names = _names(session)
    for run, part, lengths in driven.runs:
        if any(not deviation.passed for deviation in compare_run(run, part, names)):
            return part, lengths
    _, part, lengths = driven.runs[0]
    return part, lengths


def _names(session: Session) -> tuple[str, ...]:
    return compared_tensors(session) if isinstance(session, CellSession) else ()


def _with_dense_states(part: Reference, lengths: Sequence[int], session: Session, witnesses: Witnesses) -> Reference:
    """The reference with the exact state at the end of every chunk, where it can be had and fits into memory."""
    if witnesses.states is None or not isinstance(session, CellSession):
        return part
    ends = [sum(lengths[: count + 1]) for count in range(len(lengths))][:-1]
    size = session.spec.size_bytes(part.steps, len(part.tokens))
    if not ends or (not session.spec.has_pool and size * len(ends) > _MOST_STATE_BYTES):
        return part
    return replace(part, states={**part.states, **witnesses.states(part.tokens, {*ends, *part.states})})


def _deviations(session: Session, part: Reference, lengths: Sequence[int]) -> list[Deviation]:
    """The run again, looked at between blocks where the session can show that."""
    names = _names(session)
    try:
        run = run_in_chunks(session, part.tokens, lengths, part.states, probe=True)
    except RuntimeUnavailableError:
        run = run_in_chunks(session, part.tokens, lengths, part.states)
    session.reset(1)
    return compare_run(run, part, names)


def _earliest(deviations: Sequence[Deviation]) -> Deviation | None:
    """What is first out of tolerance: by step, then by the order of computation."""
    bad = [deviation for deviation in deviations if deviation.first_bad_step is not None]
    return min(bad, key=lambda d: (d.first_bad_step or 0, computation_order(d.tensor)), default=None)


def _chunk_around(lengths: Sequence[int], step: int) -> tuple[int, int]:
    """First position and length of the chunk that holds a step."""
    start = 0
    for length in lengths:
        if step < start + length:
            return start, length
        start += length
    return start, 1


def _sides_from_exact(session: Session, part: Reference, start: int, length: int, witnesses: Witnesses) -> list[Side]:
    """The chunk again, by every form, from the exact state before it."""
    forms: dict[str, Session] = {session.runtime: session} if isinstance(session, CellSession) else {}
    forms |= {name: peer for name, peer in witnesses.peers.items() if peer is not session}
    if witnesses.graph is not None:
        forms[witnesses.graph.runtime] = witnesses.graph
    window, sides = _window(part, start, length), []
    for name, form in forms.items():
        if not isinstance(form, CellSession):
            sides.append(Side(name, "none", tuple(_cut(_deviations(form, part, [part.steps]), start + length))))
        elif start == 0 or start in part.states:
            sides.append(Side(name, "exact", tuple(_step_from_exact(form, part, window, start, length))))
    return sides


def _cut(deviations: Sequence[Deviation], end: int) -> list[Deviation]:
    """What goes wrong after the chunk says nothing about it."""
    return [
        replace(d, first_bad_step=None) if d.first_bad_step is not None and d.first_bad_step >= end else d
        for d in deviations
    ]


def _step_from_exact(form: CellSession, part: Reference, window: Reference, start: int, length: int) -> list[Deviation]:
    snapshot = part.snapshot(start, form) if start else None
    try:
        run = run_in_chunks(form, window.tokens, [length], [start + length], start=snapshot, probe=True)
    except RuntimeUnavailableError:
        run = run_in_chunks(form, window.tokens, [length], [start + length], start=snapshot)
    form.reset(1)
    return [
        replace(d, first_bad_step=d.first_bad_step + start)
        if d.first_bad_step is not None and d.tensor not in window.bounds.states
        else d
        for d in compare_run(run, window, _names(form))
    ]


def _window(part: Reference, start: int, length: int) -> Reference:
    """A stretch of the reference; its states keep their positions."""
    end = start + length
    bounds = Bounds(part.bounds.logits[start:end], part.bounds.streams[:, start:end], part.bounds.states)
    return replace(
        part,
        tokens=part.tokens[:, start:end],
        logits=part.logits[:, start:end],
        streams=[stream[:, start:end] for stream in part.streams],
        bounds=bounds,
    )


def _judge(session: Session, first: Deviation, sides: Sequence[Side]) -> tuple[str, str]:
    """The cause, and a sentence about it."""
    by_form = {(side.form, side.state): side for side in sides}
    local = by_form.get((session.runtime, "exact"))
    parallel = by_form.get(("parallel", "none"))
    if session.runtime == "parallel" or (parallel is not None and not parallel.passed):
        return "weights", (
            "even the trained form in float32 is out of tolerance: the weights are more delicate than the error bound "
            "allows for, or the checkpoint is damaged"
        )
    if local is None:
        return "unknown", "no exact state is known there to tell a local error from a carried one"
    if local.passed:
        return "state handling", (
            "from the exact state this step is right, so the error was carried in: the state is kept, paired or "
            "updated wrongly between steps, or small errors accumulate in it"
        )
    if session.runtime == "recurrent":
        return "cell", f"wrong even from the exact state, the parallel form is right: {_hint(local.first or first)}"
    graph = next((side for side in sides if side.form.startswith("graph")), None)
    if graph is None:
        return "graph or runtime", f"wrong even from the exact state: {_hint(local.first or first)}"
    if graph.passed:
        return "runtime", (
            f"wrong even from the exact state, while the same graph in float64 is right: {session.runtime}, its "
            "provider, or what feeds it is at fault, not the bundle"
        )
    return "graph", f"the graph itself is wrong, in float64 too: {_hint(graph.first or first)}"


def _hint(first: Deviation) -> str:
    """What computes a tensor, for someone who has to mend it."""
    if first.tensor == LOGITS:
        return "the head's weights or norm"
    if first.block is None:
        return "the embedding or the positions"
    if first.tensor.startswith("stream."):
        return f"block {first.block} reads its state wrongly, or W1, b1, W3 or b3 differ"
    return f"what block {first.block} writes to its state: W2, b2 or its norm"


def _where(first: Deviation, length: int) -> str:
    row = "" if first.bad_row is None else f", row {first.bad_row}"
    chunk = f" (in a prefill of {length} tokens)" if length > 1 else ""
    return f"step {first.first_bad_step}{chunk}, {first.place}, {first.tensor}{row}"
