"""The level `determinism`: which runs are equal bit for bit; the table of targets says what is claimed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from causalrn.bundle.targets import all_targets
from causalrn.errors import NonFiniteError, StateError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.reference import Reference, Run, current_values, run_in_chunks
from causalrn.runtimes.parity.results import LevelResult, not_finite
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray

OpenAgain = Callable[[int | None], CellSession]
"""Open another session over the same model, with so many threads inside one operator; None takes the same number."""

_SMALLEST = 2.0**-149


def check_determinism(
    runtime: str, session: CellSession, reference: Reference, open_again: OpenAgain, *, provider: str = "cpu"
) -> LevelResult:
    """Run each check of `causalrn.bundle.targets.EQUALITIES` on two sequences; a claim that does not hold fails.

    Where nothing is claimed, what was measured is no verdict. NaN, and a state that cannot be restored, fail too.
    """
    try:
        return _check(runtime, session, reference, open_again, provider)
    except NonFiniteError:
        return not_finite("determinism", runtime)
    except StateError as error:
        return LevelResult("determinism", runtime, False, f"a state could not be restored: {error}")


def _check(
    runtime: str, session: CellSession, reference: Reference, open_again: OpenAgain, provider: str
) -> LevelResult:
    tokens = reference.tokens[: min(2, session.max_batch or 2)]
    row = next((row for row in all_targets() if row.runtime == session.runtime), None)
    claimed = row.equalities if row is not None and provider == "cpu" else ()  # other providers were not tried
    single = _run(session, tokens)
    with open_again(None) as other:
        differences = {
            "repeat": _difference(single, _run(session, tokens)),
            "interleaved": _interleaved(session, other, tokens, single),
            "resumed": _resumed(session, other, tokens, single),
        }
    if row is not None and row.has_threads:
        with open_again(1) as one, open_again(2) as two:
            differences["threads"] = _difference(_run(one, tokens), _run(two, tokens))
    session.reset(1)
    broken = [name for name in claimed if differences[name] != 0]
    unclaimed = [name for name in differences if name not in claimed and differences[name] != 0]
    summary = f"{', '.join(broken)}: not bit-equal" if broken else f"{len(claimed)} equalities bit for bit"
    if not claimed:
        equal = [name for name in differences if name not in unclaimed]
        summary = f"nothing is claimed; equal here: {', '.join(equal) or 'nothing'}"
    elif unclaimed and not broken:
        summary += f"; {', '.join(unclaimed)} not (not claimed)"
    return LevelResult(
        "determinism",
        runtime,
        not broken,
        summary,
        float(np.max([differences[name] for name in claimed])) if claimed else None,
        0.0 if claimed else None,
        figures=Figures(differences=differences, claimed=tuple(claimed)),
    )


def _run(session: CellSession, tokens: IntArray) -> Run:
    """Half by prefill, half by steps, with the state at the end."""
    half, steps = tokens.shape[1] // 2, tokens.shape[1]
    return run_in_chunks(session, tokens, [half, *[1] * (steps - half)], [steps])


def _interleaved(session: CellSession, other: CellSession, tokens: IntArray, single: Run) -> float:
    """The other session runs other tokens in between; neither may notice."""
    others = (tokens + 1) % session.card.config.vocabulary
    expected = _run(other, others)
    session.reset(len(tokens))
    other.reset(len(tokens))
    half = tokens.shape[1] // 2
    parts: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for start, end in [(0, half), *((index, index + 1) for index in range(half, tokens.shape[1]))]:
        for running, outputs, given in ((session, parts[0], tokens), (other, parts[1], others)):
            chunk = given[:, start:end]
            outputs.append(running.prefill(chunk) if end == half else running.step(chunk[:, 0])[:, None])
    states = ({tokens.shape[1]: current_values(running)} for running in (session, other))
    mine, theirs = (Run(np.concatenate(outputs, axis=1), state) for outputs, state in zip(parts, states, strict=True))
    return max(_difference(single, mine), _difference(expected, theirs))


def _resumed(session: CellSession, other: CellSession, tokens: IntArray, single: Run) -> float:
    """What follows a snapshot in another session equals the uninterrupted run."""
    half, steps = tokens.shape[1] // 2, tokens.shape[1]
    before, snapshot = run_in_chunks(session, tokens[:, :half], [half]), session.snapshot()
    rest = run_in_chunks(other, tokens[:, half:], [1] * (steps - half), [steps], start=snapshot)
    assert snapshot.logits is not None
    last = bit_difference(before.logits[:, -1], snapshot.logits)
    return max(last, _difference(Run(single.logits[:, half:], single.states), rest))


def _difference(one: Run, two: Run) -> float:
    """Largest |difference| of logits and of the states at the end; 0 only where all bits are equal."""
    pairs = [(one.logits, two.logits)]
    pairs += [(one.states[p][name], two.states[p][name]) for p in one.states for name in one.states[p]]
    return max((bit_difference(first, second) for first, second in pairs), default=0.0)


def bit_difference(first: Array, second: Array) -> float:
    """Largest |difference|; 0 only where all bits are equal, infinite where shapes differ or NaN is among them."""
    if first.shape == second.shape and first.tobytes() == second.tobytes():
        return 0.0
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("inf")
    return max(float(np.abs(first.astype(np.float64) - second).max(initial=0.0)), _SMALLEST)  # -0.0 is not 0.0
