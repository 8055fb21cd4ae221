"""Judging what a kernel answered: against the reference, and where bits have to be equal against other answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from causalrn.bundle.tolerances import WRONG_VALUE
from causalrn.runtimes.parity.budgets import describe_judged, judge_agreement
from causalrn.runtimes.parity.comparison import Deviation, compare_run
from causalrn.runtimes.parity.determinism import bit_difference
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.kernels.calls import Answers, Call, DeepRun
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import compared_tensors
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.parity.traces import Traces
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array

Differences = dict[str, tuple[float, str]]
"""By equality the largest |difference|, 0 where all bits are equal, and in words between what."""


def judge_calls(name: str, calls: Sequence[Call], case: Case, session: Session) -> LevelResult:
    """By rounding, or with a budget by what the distributions lost; it names the first call that is wrong."""
    tensors, limit = compared_tensors(session), None if case.budget is None else WRONG_VALUE
    found = [(call, compare_run(call.trace.run, call.trace.reference, tensors)) for call in calls]
    wrong = next(((call, bad) for call, many in found for bad in many if _is_wrong(bad, limit)), None)
    traces = Traces(tuple(call.trace for call in calls))
    fault = "" if wrong is None else f"{wrong[0].words}: {wrong[1].tensor} off by {wrong[1].error:.0e}"
    agreement = traces.agreement()
    if not fault and case.budget is not None:
        judged = judge_agreement(agreement, case.budget)
        fault = "" if all(figure.passed for figure in judged) else describe_judged(judged)
    deviations, figures = traces.deviations(session), Figures(distribution=agreement)
    return LevelResult.from_deviations("kernels", name, deviations, figures, summary=fault, verdict=not fault)


def _is_wrong(deviation: Deviation, limit: float | None) -> bool:
    return not deviation.passed if limit is None else not deviation.error <= limit


def between_calls(answers: Answers) -> Differences:
    """How far the same tokens are from themselves, taken one by one by a single sequence."""
    differences: Differences = {}
    for call in answers.calls:
        reference = call.trace.reference
        expected = answers.alone[call.rows, reference.first : reference.first + reference.steps]
        _keep(differences, call.equality, bit_difference(call.trace.run.logits, expected), call.words)
    return differences


def between_tails(deep: DeepRun) -> Differences:
    """The same at the depths of a long run."""
    differences: Differences = {}
    for number, (steps, prefill) in enumerate(zip(deep.stepped, deep.at_once, strict=True)):
        words = f"steps and a prefill at the end of {number + 1} long prefills"
        _keep(differences, "prefill", bit_difference(steps, prefill), words)
    return differences


def between_runs(equality: str, words: str, first: Iterable[Array], second: Iterable[Array]) -> Differences:
    """Two runs that have to be the same."""
    pairs = list(zip(first, second, strict=False))
    return {equality: (max((bit_difference(a, b) for a, b in pairs), default=0.0), words)}


def _keep(differences: Differences, equality: str, difference: float, words: str) -> None:
    if equality not in differences or difference > differences[equality][0]:
        differences[equality] = difference, words


def merge_differences(*several: Differences) -> Differences:
    """The largest of each."""
    merged: Differences = {}
    for differences in several:
        for equality, (difference, words) in differences.items():
            _keep(merged, equality, difference, words)
    return merged


def broken_equality(differences: Mapping[str, tuple[float, str]], claimed: Iterable[str]) -> str:
    """The first claim that does not hold, in words; empty where all do."""
    for equality in claimed:
        difference, words = differences.get(equality, (0.0, ""))
        if difference != 0:
            return f"{equality}: {words}: not bit-equal"
    return ""


def far_apart(one: DeepRun, two: DeepRun, allowed: float) -> str:
    """Why two kernels cannot both be right on a long sequence; empty where they may be."""
    for first, second in zip(one.logits, two.logits, strict=True):
        rows = min(len(first), len(second))
        error = float(np.abs(first[:rows].astype(np.float64) - second[:rows]).max(initial=0.0))
        if not error <= allowed:
            return f"a long sequence: {error:.0e} from the default kernel, allowed {allowed:.0e}"
    return ""
