"""The level `task`: what the model was trained for, before and after export, with a gate."""

from __future__ import annotations

import math

from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.tolerances import ACCURACY_TIES, Budget


def judge_task(
    form: str,
    after: TaskAccuracy,
    before: TaskAccuracy | None,
    *,
    budget: Budget | None,
    least: float | None,
) -> LevelResult:
    """Compare an accuracy with that of the trained form.

    Args:
        before: of the parallel form, or where that is not there of the first form that ran, on the same examples; None
            for that form itself.
        budget: what a quantized form may lose; without one, forms differ by ties at most.
        least: smallest accuracy that passes, 0 to 1.
    """
    summary, passed = describe_accuracy(after), True
    if before is not None:
        lost = before.right - after.right  # of the same examples
        ties = max(1, math.floor(ACCURACY_TIES * before.counted + 0.5))
        most = ties if budget is None else math.floor(budget.accuracy_drop * before.counted + 1e-6)
        passed = lost <= most and (budget is not None or -lost <= ties)
        if not passed:
            summary += f", before {describe_accuracy(before)}"
    if least is not None and after.accuracy < least:
        passed = False
        summary += f", asked for {100 * least:.4g}%"
    figures = {"after": after.to_json(), "before": None if before is None else before.to_json()}
    return LevelResult("task", form, passed, summary, figures=figures)


def describe_accuracy(accuracy: TaskAccuracy) -> str:
    """Counts for people."""
    return f"{accuracy.right}/{accuracy.counted} {accuracy.unit} right"
