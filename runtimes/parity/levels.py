"""The levels that compare values: logits, state, split and layer judge what traces.py ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from causalrn.bundle.tolerances import REGRESSION_RELATIVE, Budget
from causalrn.compiling.processor import processor_family
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.budgets import JudgedFigure, describe_judged, judge_agreement, judge_repeats
from causalrn.runtimes.parity.comparison import (
    Agreement,
    Deviation,
    merged,
    step_errors,
)
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.golden import Golden
from causalrn.runtimes.parity.reference import Reference, compared_tensors, run_in_chunks
from causalrn.runtimes.parity.results import Level, LevelResult
from causalrn.runtimes.parity.traces import Traces
from causalrn.runtimes.session import Session

_HEAT_COLUMNS = 48


@dataclass(frozen=True)
class Case:
    """What the levels compare with, and how they judge.

    Attributes:
        reference: tokens, expected values and bounds.
        budget: what a quantized form may lose; None judges by rounding.
        seed: of random chunkings.
        vocabulary: short sequences in which every token id occurs; None where they are not known.
    """

    reference: Reference
    budget: Budget | None = None
    seed: int = 0
    vocabulary: Reference | None = None


def check_logits(runtime: str, traces: Traces, case: Case, session: Session) -> LevelResult:
    """Logits against the oracle, and as distributions."""
    deviations = _of_kind("logits", traces.deviations(session), case)
    agreement = traces.agreement()
    errors = np.max([step_errors(d.run.logits, d.reference.logits) for d in traces.traces], axis=0)
    largest, bounds = case.reference.largest_logit, case.reference.bounds.logits
    return _judged(
        "logits",
        runtime,
        deviations,
        case,
        agreement,
        Figures(
            errors=tuple((errors / largest).tolist()),
            allowed_errors=tuple((bounds / largest).tolist()),
        ),
        summary=f"argmax {100 * agreement.argmax_agreement:.4g}%",
    )


def check_state(runtime: str, stepped: Traces, from_reference: Traces, case: Case, session: CellSession) -> LevelResult:
    """Every state tensor: on the way from a fresh state, and one step after a reference state was fed in."""
    both = merged([stepped.deviations(session), from_reference.deviations(session)], case.reference.places)
    agreement = from_reference.agreement() if from_reference.traces else stepped.agreement()
    count = len(compared_tensors(session))
    return _judged(
        "state",
        runtime,
        _of_kind("state", both, case),
        case,
        agreement,
        Figures(),
        summary=f"{count} tensor{'' if count == 1 else 's'} at {len(case.reference.states)} positions",
    )


def check_split(runtime: str, traces: Traces, case: Case, session: CellSession, stepped: Traces) -> LevelResult:
    """Logits and states after other splits of the same tokens.

    Args:
        stepped: the same sequences step by step: a quantized form has to agree with itself, too.
    """
    budget = None if case.budget is None else case.budget.between_calls
    result = _judged(
        "split",
        runtime,
        traces.deviations(session),
        dataclasses.replace(case, budget=budget),
        traces.agreement(),
        Figures(chunks=tuple(trace.lengths for trace in traces.traces)),
        summary=f"{len({trace.lengths for trace in traces.traces})} splits",
    )
    if budget is None:
        return result
    together, count = stepped.last_logits(), len(case.reference.tokens)
    single = [(trace.run.logits, together[row : row + 1]) for row, trace in enumerate(stepped.traces[:-1])]
    split = [(trace.run.logits, together[np.arange(len(trace.run.logits)) % count]) for trace in traces.traces]
    itself = judge_repeats([*single, *split], case.reference.largest_logit, budget, budget.split)
    before = result.figures.judged
    judged = (*(() if before is UNSET else before), *itself)
    passed = result.passed and all(figure.passed for figure in itself)
    return replace(
        result, passed=passed, summary=describe_judged(judged), figures=replace(result.figures, judged=judged)
    )


def check_layer(runtime: str, traces: Traces, case: Case, session: Session) -> LevelResult:
    """The residual stream between blocks, step by step."""
    deviations = _of_kind("stream", traces.deviations(session), case)
    return _judged(
        "layer",
        runtime,
        deviations,
        case,
        traces.agreement(),
        Figures(heat=_heat(traces, case.reference)),
        summary=f"{len(deviations)} streams",
    )


def _of_kind(kind: str, deviations: Sequence[Deviation], case: Case) -> list[Deviation]:
    """Those of the logits, the streams or the state."""
    places = case.reference.places
    return [deviation for deviation in deviations if places[deviation.tensor].kind == kind]


def _heat(traces: Traces, reference: Reference) -> tuple[tuple[float, ...], ...]:
    """[N + 1][columns]: error over what is allowed, by stream and step; the largest where steps share a column."""
    rows = []
    for k, allowed in enumerate(reference.bounds.streams):
        errors = np.max([step_errors(d.run.streams[k], d.reference.streams[k]) for d in traces.traces], axis=0)
        columns = np.array_split(errors / allowed, min(_HEAT_COLUMNS, len(errors)))
        rows.append(tuple(float(column.max()) for column in columns))
    return tuple(rows)


def check_recorded(session: CellSession, golden: Golden, budget: Budget | None) -> LevelResult:
    """Step by step against the output of the runtime that wrote the bundle: the same runtime on another machine."""
    reference = golden.reference
    run = run_in_chunks(session, reference.tokens, [1] * reference.steps)
    session.reset(1)
    largest = reference.largest_logit
    error = float(step_errors(run.logits, golden.recorded_logits).max()) / largest
    name = f"{session.runtime}, recorded"
    if budget is None:
        allowed = max(REGRESSION_RELATIVE, float(reference.bounds.logits[-1]) / largest)
        passed = error <= allowed
        words = "as when it was exported" if passed else "another answer than when it was exported"
        return LevelResult("logits", name, passed, words, error, allowed)
    if golden.recorded_on not in (None, processor_family()):
        budget = dataclasses.replace(budget, typical=budget.elsewhere)
    judged = judge_repeats([(run.logits, golden.recorded_logits)], largest, budget, budget.repeat)
    passed = all(figure.passed for figure in judged)
    words, figures = describe_judged(judged), Figures(judged=judged)
    return LevelResult("logits", name, passed, words, error, budget.repeat, figures=figures)


def check_resumed(traces: Traces, case: Case, session: CellSession) -> LevelResult:
    """What follows the recorded state."""
    return _judged(
        "state",
        f"{session.runtime}, resumed",
        traces.deviations(session),
        case,
        traces.agreement(),
        Figures(),
        summary=f"from the recorded state at {traces.traces[0].reference.first}",
    )


def _judged(
    level: Level,
    runtime: str,
    deviations: Sequence[Deviation],
    case: Case,
    agreement: Agreement,
    figures: Figures,
    *,
    summary: str,
) -> LevelResult:
    """By rounding; or with a budget by what logits and distributions lost: deviations are shown, and not judged."""
    figures = replace(figures, distribution=agreement)
    if case.budget is None:
        return LevelResult.from_deviations(level, runtime, deviations, figures, summary=summary)
    errors = [deviation.error for deviation in deviations]
    judged = judge_agreement(agreement, case.budget, case.reference.tokens.size)
    judged += (JudgedFigure.of("state", float(np.max(errors, initial=0.0)), case.budget.wrong_value),)
    figures, within = replace(figures, judged=judged), all(figure.passed for figure in judged)
    words = describe_judged(judged)
    return LevelResult.from_deviations(level, runtime, deviations, figures, summary=words, verdict=within)
