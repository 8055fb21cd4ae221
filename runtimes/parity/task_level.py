"""The level `task`: what the model was trained for, before and after export, with a gate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from causalrn.bundle.tolerances import ACCURACY_TIES, Budget
from causalrn.errors import NonFiniteError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.figures import AccuracyFigures, Figures
from causalrn.runtimes.parity.results import LevelResult, not_finite
from causalrn.runtimes.session import Session
from causalrn.runtimes.task_accuracy import TaskAccuracy, batches, free_running_accuracy, teacher_forced_accuracy
from causalrn.training.tasks import Examples, Task

Way = Callable[[Task, Examples], TaskAccuracy]
"""How a runtime answers examples."""


def task_ways(runtimes: Mapping[str, Session], trained: Session | None) -> dict[str, Way]:
    """How each runtime answers: the trained form, first, is given the right tokens, the others their own.

    Args:
        trained: what to compare with, also where it is not among the runtimes.
    """
    everyone = ({} if trained is None else {trained.runtime: trained}) | dict(runtimes)
    ways: dict[str, Way] = {}
    for name, session in everyone.items():
        if not isinstance(session, CellSession):
            ways[name] = _way(session, teacher_forced_accuracy)
            continue
        ways[f"{name}, steps"] = _way(session, free_running_accuracy, by_steps=True)
        if name != "recurrent":
            ways[f"{name}, prefill"] = _way(session, free_running_accuracy)
    return ways


def _way(session: Session, measure: Callable[..., TaskAccuracy], **options: Any) -> Way:
    return lambda task, examples: measure(session, task, examples, **options)


def answer_all(
    ways: Mapping[str, Way],
    task: Task,
    examples: Examples,
    seconds: float,
    on_batch: Callable[[int], object] = lambda count: None,
) -> dict[str, TaskAccuracy | None]:
    """Let all runtimes answer the same examples, batch by batch, as many as there is time for, but one batch at least.

    Returns:
        By runtime what was right; None where NaN or infinity came out.
    """
    answers: dict[str, TaskAccuracy | None] = {}
    started = time.monotonic()
    for batch in batches(examples):
        for runtime, way in ways.items():
            before = answers.get(runtime)
            if runtime in answers and before is None:
                continue
            try:
                now = way(task, batch)
                answers[runtime] = now if before is None else before + now
            except NonFiniteError:
                answers[runtime] = None
            on_batch(len(batch))
        if time.monotonic() - started > seconds:
            break
    return answers


def judge_all(
    answers: Mapping[str, TaskAccuracy | None], budgets: Mapping[str, Budget | None], least: float | None
) -> list[LevelResult]:
    """One result per runtime, each compared with the first, the trained form where it is there."""
    first, before = next(iter(answers.items()))
    results = []
    for runtime, after in answers.items():
        if after is None or before is None:
            results.append(not_finite("task", runtime))
        else:
            results.append(
                judge_task(runtime, after, before if runtime != first else None, budget=budgets[runtime], least=least)
            )
    return results


def judge_task(
    runtime: str, after: TaskAccuracy, before: TaskAccuracy | None, *, budget: Budget | None, least: float | None
) -> LevelResult:
    """Compare an accuracy with that of another runtime on the same examples.

    Args:
        before: None where there is nothing to compare with.
        budget: what a quantized form may lose; without one, runtimes differ by ties at most.
        least: smallest accuracy that passes, 0 to 1.
    """
    summary, passed = describe_accuracy(after), True
    if before is not None:
        lost = before.right - after.right
        ties = max(1, math.floor(ACCURACY_TIES * before.counted + 0.5))
        most = ties if budget is None else budget.most_lost(before.counted)
        passed = lost <= most and (budget is not None or -lost <= ties)
        if not passed:
            change = f"{lost:,} lost > {most:,}" if lost > 0 else f"{-lost:,} more > {ties:,}"
            summary += f", before {before.right:,}: {change}"
    if least is not None and after.accuracy < least:
        passed = False
        summary += f": {100 * after.accuracy:.4g}% < {100 * least:.4g}% asked for"
    figures = Figures(
        examples=sum(counted for counted, _ in after.by_length.values()),
        after=AccuracyFigures.of(after),
        before=None if before is None else AccuracyFigures.of(before),
    )
    return LevelResult("task", runtime, passed, summary, figures=figures)


def describe_accuracy(accuracy: TaskAccuracy) -> str:
    """Counts for people."""
    return f"{accuracy.right}/{accuracy.counted} {accuracy.unit} right"
