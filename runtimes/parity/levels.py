"""The levels that compare values: logits, state, split, layer. Each runs a session its own way through the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from causalrn.bundle.json_values import finite
from causalrn.bundle.tolerances import REGRESSION_RELATIVE, WRONG_VALUE, Budget
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.comparison import (
    Agreement,
    Deviation,
    compare_distributions,
    compare_run,
    judge_agreement,
    mean_agreement,
    merged,
    step_errors,
)
from causalrn.runtimes.parity.golden import Golden
from causalrn.runtimes.parity.reference import LOGITS, Reference, Run, compared_tensors, run_in_chunks
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.session import FloatArray, Session

_CHUNKINGS = 3
_BATCHES = (1, 2, 3, 5)
_HEAT_COLUMNS = 48


@dataclass(frozen=True)
class Case:
    """What the levels compare with, and how they judge.

    Attributes:
        reference: tokens and exact values.
        budget: what a quantized form may lose; None judges by rounding.
        seed: of random chunkings.
        vocabulary: short sequences in which every token id occurs; None where they are not known.
    """

    reference: Reference
    budget: Budget | None = None
    seed: int = 0
    vocabulary: Reference | None = None


@dataclass(frozen=True)
class Trace:
    """One run over (a stretch of) the reference's sequences.

    Attributes:
        run: the session's outputs.
        reference: the expected ones; its `first` tells where the run began.
        lengths: of the chunks in which it took the tokens.
    """

    run: Run
    reference: Reference
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Traces:
    """Several runs that are judged together."""

    traces: tuple[Trace, ...]

    def deviations(self, session: Session) -> list[Deviation]:
        """Per tensor the worst of all runs."""
        return merged([compare_run(trace.run, trace.reference, compared_tensors(session)) for trace in self.traces])

    def agreement(self) -> Agreement:
        """The distributions of all runs."""
        return mean_agreement(
            [compare_distributions(trace.run.logits, trace.reference.logits) for trace in self.traces]
        )

    def last_logits(self) -> FloatArray:
        """What the last run said: [B, T, V]."""
        return self.traces[-1].run.logits


def trace_in_steps(session: Session, reference: Reference, *, probe: bool = False) -> Traces:
    """Every sequence alone, and all as a batch (other graphs may serve it), token by token from a fresh state."""
    return _trace(session, _alone_and_together(reference), [(1,) * reference.steps], probe=probe)


def trace_whole(session: Session, reference: Reference, *, probe: bool = False) -> Traces:
    """All sequences as one batch, in one call: how the parallel form computes."""
    return _trace(session, [reference], [(reference.steps,)], probe=probe)


def trace_in_chunks(session: Session, reference: Reference, seed: int) -> Traces:
    """Prefills of all lengths onto fresh and other states, ending at every kind of place, in batches of several sizes.

    Everything at once, as most prompts are taken, in each batch size; in two halves; and in random chunks, single steps
    and prefills onto a state that is not empty among them.
    """
    rng, steps = np.random.default_rng([seed, reference.steps]), reference.steps
    middle = max(1, steps // 2)
    sizes = [_of_size(reference, size) for size in _BATCHES]
    chunkings = [(middle, steps - middle), *(_random_chunks(rng, steps) for _ in range(_CHUNKINGS))]
    groups = [_trace(session, [part], [(steps,)]) for part in sizes]
    groups += [_trace(session, [part], [lengths]) for part, lengths in zip(sizes, chunkings, strict=True)]
    groups.append(_trace(session, [reference], chunkings))
    return Traces(tuple(trace for group in groups for trace in group.traces))


def _of_size(reference: Reference, size: int) -> Reference:
    """So many sequences; repeated where there are too few."""
    return reference.rows(np.arange(size) % len(reference.tokens))


def trace_together(session: Session, reference: Reference) -> Traces:
    """All sequences as one batch, step by step."""
    return _trace(session, [reference], [(1,) * reference.steps])


def _trace(
    session: Session, parts: Sequence[Reference], chunkings: Sequence[tuple[int, ...]], *, probe: bool = False
) -> Traces:
    traces = [
        Trace(run_in_chunks(session, part.tokens, lengths, part.states, probe=probe), part, lengths)
        for lengths in chunkings
        for part in parts
    ]
    session.reset(1)
    return Traces(tuple(traces))


def _alone_and_together(reference: Reference) -> list[Reference]:
    """Each sequence alone, and all as a batch; a single one twice, so that what serves batches is run, too."""
    rows = [reference.rows(slice(row, row + 1)) for row in range(len(reference.tokens))]
    return [*rows, _of_size(reference, max(2, len(rows)))]


def trace_from_reference_states(session: CellSession, reference: Reference) -> Traces:
    """One step from each exact state whose next state is known, too: only a local error can show."""
    starts = [position for position in sorted(reference.states) if position + 1 in reference.states]
    traces = []
    for part in _alone_and_together(reference)[-2:]:
        for start in starts:
            window, snapshot = part.window(start, 1), part.snapshot(start, session)
            run = run_in_chunks(session, window.tokens, [1], [start + 1], start=snapshot)
            traces.append(Trace(run, window, (1,)))
    session.reset(1)
    return Traces(tuple(traces))


def _random_chunks(rng: np.random.Generator, steps: int) -> tuple[int, ...]:
    """Chunk lengths: from a few long ones to many short ones."""
    cuts = {0, steps} | set(rng.integers(1, steps, size=int(rng.integers(1, max(2, steps // 4) + 1))).tolist())
    return tuple(np.diff(sorted(cuts)).tolist())


def check_logits(runtime: str, traces: Traces, case: Case, session: Session) -> LevelResult:
    """Logits against the oracle, and as distributions."""
    deviations = [deviation for deviation in traces.deviations(session) if deviation.tensor == LOGITS]
    agreement = traces.agreement()
    errors = np.max([step_errors(d.run.logits, d.reference.logits) for d in traces.traces], axis=0)
    largest, bounds = case.reference.largest_logit, case.reference.bounds.logits
    return _judged(
        "logits",
        runtime,
        deviations,
        case,
        agreement,
        summary=f"argmax {100 * agreement.argmax_agreement:.4g}%",
        errors=[finite(float(error)) for error in errors / largest],
        allowed_errors=[finite(float(error)) for error in bounds / largest],
    )


def check_state(runtime: str, stepped: Traces, from_reference: Traces, case: Case, session: CellSession) -> LevelResult:
    """Every state tensor: on the way from a fresh state, and one step after an exact state was fed in."""
    names = compared_tensors(session)
    both = merged([stepped.deviations(session), from_reference.deviations(session)])
    return _judged(
        "state",
        runtime,
        [deviation for deviation in both if deviation.tensor in names],
        case,
        from_reference.agreement() if from_reference.traces else stepped.agreement(),
        summary=f"{len(names)} tensors at {len(case.reference.states)} positions",
    )


def check_split(runtime: str, traces: Traces, case: Case, session: CellSession, stepped: Traces) -> LevelResult:
    """Logits and states after other splits of the same tokens.

    Args:
        stepped: the same sequences step by step: a quantized form has to agree with itself, too.
    """
    result = _judged(
        "split",
        runtime,
        traces.deviations(session),
        case,
        traces.agreement(),
        summary=f"{len({trace.lengths for trace in traces.traces})} splits",
        chunks=[list(trace.lengths) for trace in traces.traces],
    )
    budget = case.budget
    if budget is None or budget.split >= 1:
        return result
    together, count = stepped.last_logits(), len(case.reference.tokens)
    alone = [(trace.run.logits, together[row : row + 1]) for row, trace in enumerate(stepped.traces[:-1])]
    split = [(trace.run.logits, together[np.arange(len(trace.run.logits)) % count]) for trace in traces.traces]
    for said, expected in (*alone, *split):
        words, repeats = _repeats(said, expected, case.reference.largest_logit, budget, budget.split)
        if not repeats:
            return replace(result, passed=False, summary=f"itself otherwise: {words}")
    return result


def _repeats(said: FloatArray, before: FloatArray, largest: float, budget: Budget, most: float) -> tuple[str, bool]:
    """Whether a quantized form says again what it said before, in other calls or elsewhere, and a few words."""
    errors = step_errors(said, before) / largest
    worst, typical = float(errors.max()), float(np.median(errors))
    good = worst <= most and typical <= budget.typical  # NaN is not
    return ("as before" if good else f"off by {worst:.0e}, typically {typical:.0e}"), good


def check_layer(runtime: str, traces: Traces, case: Case, session: Session) -> LevelResult:
    """The residual stream between blocks, step by step."""
    deviations = [d for d in traces.deviations(session) if d.tensor.startswith("stream.")]
    return _judged(
        "layer",
        runtime,
        deviations,
        case,
        traces.agreement(),
        summary=f"{len(deviations)} streams",
        heat=_heat(traces, case.reference),
    )


def _heat(traces: Traces, reference: Reference) -> list[list[float | None]]:
    """[N + 1][columns]: error over what is allowed, by stream and step; the largest where steps share a column."""
    rows = []
    for k, allowed in enumerate(reference.bounds.streams):
        errors = np.max([step_errors(d.run.streams[k], d.reference.streams[k]) for d in traces.traces], axis=0)
        columns = np.array_split(errors / allowed, min(_HEAT_COLUMNS, len(errors)))
        rows.append([finite(float(column.max())) for column in columns])
    return rows


def check_recorded(session: CellSession, golden: Golden, budget: Budget | None) -> LevelResult:
    """Step by step against what the runtime that wrote the bundle said: the same runtime on another machine."""
    reference = golden.reference
    run = run_in_chunks(session, reference.tokens, [1] * reference.steps)
    session.reset(1)
    largest = reference.largest_logit
    error = float(step_errors(run.logits, golden.recorded_logits).max()) / largest
    if budget is None:
        allowed = max(REGRESSION_RELATIVE, float(reference.bounds.logits[-1]) / largest)
        passed = error <= allowed
        words = "as when it was exported" if passed else "another answer than when it was exported"
    else:
        allowed = budget.repeat
        words, passed = _repeats(run.logits, golden.recorded_logits, largest, budget, allowed)
    return LevelResult("logits", f"{session.runtime}, recorded", passed, words, error, allowed)


def trace_resumed(session: CellSession, golden: Golden) -> Traces:
    """All sequences as a batch, resumed from the recorded mid-sequence state."""
    snapshot, reference = golden.recorded_snapshot(session.owner), golden.reference
    start = snapshot.position
    window = reference.window(start, reference.steps - start)
    lengths = (1,) * window.steps
    run = run_in_chunks(session, window.tokens, lengths, reference.states, start=snapshot)
    session.reset(1)
    return Traces((Trace(run, window, lengths),))


def check_resumed(traces: Traces, case: Case, session: CellSession) -> LevelResult:
    """What follows the recorded state."""
    return _judged(
        "state",
        f"{session.runtime}, resumed",
        traces.deviations(session),
        case,
        traces.agreement(),
        summary=f"from the recorded state at {traces.traces[0].reference.first}",
    )


def _judged(
    level: str,
    runtime: str,
    deviations: Sequence[Deviation],
    case: Case,
    agreement: Agreement,
    *,
    summary: str,
    **figures: Any,
) -> LevelResult:
    """By rounding; or with a budget by what the distributions lost, the deviations being shown and not judged."""
    figures["distribution"] = agreement.to_json()
    if case.budget is None:
        return LevelResult.from_deviations(level, runtime, deviations, summary=summary, **figures)
    words, within = judge_agreement(agreement, case.budget)
    wrong = [deviation for deviation in deviations if not deviation.error <= WRONG_VALUE]
    if wrong:
        words, within = f"{wrong[0].tensor} off by {wrong[0].error:.0e}", False
    return LevelResult.from_deviations(level, runtime, deviations, summary=words, verdict=within, **figures)
