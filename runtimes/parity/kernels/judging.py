"""Judging what a kernel answered: against the reference, and where bits have to be equal against other answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from causalrn.bundle.tolerances import Budget
from causalrn.runtimes.parity.budgets import JudgedFigure, describe_judged, judge_agreement
from causalrn.runtimes.parity.comparison import Deviation, compare_run
from causalrn.runtimes.parity.determinism import bit_difference
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.kernels.answers import Answer, Answers, DeepRun
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Reference, compared_tensors
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.parity.traces import Traces
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array

Differences = dict[str, tuple[float, str]]
"""By equality the largest |difference|, 0 where all bits are equal, and in words between what."""


def judge_answers(name: str, answers: Answers, case: Case, session: Session) -> LevelResult:
    """By rounding, or with a budget by what the distributions lost; it names the first answer that is wrong."""
    tensors, limit = compared_tensors(session), None if case.budget is None else case.budget.wrong_value
    found = [(answer, compare_run(answer.trace.run, answer.trace.reference, tensors)) for answer in answers.all]
    wrong = next(((answer, bad) for answer, many in found for bad in many if _is_wrong(bad, limit)), None)
    traces = Traces(tuple(answer.trace for answer in answers.all))
    fault = "" if wrong is None else f"{wrong[0].words}: {wrong[1].tensor} off by {wrong[1].error:.0e}"
    deviations, figures = traces.deviations(session), Figures(distribution=traces.agreement())
    if case.budget is not None:
        group, judged = _nearest_to_budget(answers, case.budget, case.reference)
        figures = replace(figures, judged=judged)
        if not fault and not all(figure.passed for figure in judged):
            fault = f"{group}: {describe_judged(judged)}"
    return LevelResult.from_deviations("kernels", name, deviations, figures, summary=fault, verdict=not fault)


def _nearest_to_budget(answers: Answers, budget: Budget, reference: Reference) -> tuple[str, tuple[JudgedFigure, ...]]:
    """The first group of calls beyond a budget, or the one that is nearest to it, with its figures.

    No group is diluted by the others, nor a call by its group.

    Each group of calls has to keep what distributions may lose, batches together: one is short. Each answer has to be
    the form's own for these tokens, as near as splits of calls have to be.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers.all:
        groups.setdefault(answer.group, []).append(answer)
        if answer.group == answer.words:
            groups.setdefault("batches", []).append(answer)
    nearest: tuple[str, tuple[JudgedFigure, ...]] = "", ()
    for group, several in groups.items():
        judged: tuple[JudgedFigure, ...] = ()
        if group != several[0].words:
            agreement = Traces(tuple(answer.trace for answer in several)).agreement()
            judged = judge_agreement(agreement, budget.between_calls, reference.tokens.size)
        judged += _judge_repeats(answers, several, budget, reference.largest_logit)
        if not all(figure.passed for figure in judged):
            return group, judged
        nearest = max(nearest, (group, judged), key=lambda each: max((figure.load for figure in each[1]), default=-1.0))
    return nearest


def _judge_repeats(
    answers: Answers, several: Sequence[Answer], budget: Budget, largest: float
) -> tuple[JudgedFigure, ...]:
    """How far a group is from the same tokens one by one: the worst token, and the median of all."""
    pairs = [(answer.trace.run.logits, answers.alone_as(answer)) for answer in several]
    errors = np.concatenate([np.abs(a.astype(np.float64) - b).max(-1).ravel() / largest for a, b in pairs])
    typical = JudgedFigure.of("itself, typically", float(np.median(errors)), budget.split_typical)
    return JudgedFigure.of("itself", float(errors.max()), budget.split), typical


def _is_wrong(deviation: Deviation, limit: float | None) -> bool:
    return not deviation.passed if limit is None else not deviation.error <= limit


def between_answers(answers: Answers) -> Differences:
    """How far the same tokens are from themselves, taken one by one by a single sequence."""
    differences: Differences = {}
    for answer in answers.all:
        difference = bit_difference(answer.trace.run.logits, answers.alone_as(answer))
        _keep(differences, answer.equality, difference, answer.words)
    return differences


def between_tails(deep: DeepRun) -> Differences:
    """The same at the depths of a long run."""
    differences: Differences = {}
    for number, (steps, prefill) in enumerate(zip(deep.stepped, deep.at_once, strict=True)):
        words = f"steps and a prefill at the end of {number + 1} long prefills"
        _keep(differences, "prefill", bit_difference(steps, prefill), words)
    return differences


def between_runs(equality: str, words: str, first: Iterable[Array], second: Iterable[Array]) -> Differences:
    """Two runs that have to be the same: infinitely far apart where one has other parts, or there are none."""
    one, two = list(first), list(second)
    same = bool(one) and len(one) == len(two)
    difference = max(bit_difference(a, b) for a, b in zip(one, two, strict=True)) if same else math.inf
    return {equality: (difference, words)}


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
