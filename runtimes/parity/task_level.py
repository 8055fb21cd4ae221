"""The level `task`: what the model was trained for, before and after export, with a gate."""

from __future__ import annotations

from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.tolerances import ACCURACY_TIES, Budget

_ROUNDING = 1e-9


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
        before: of the parallel form, or of the first form that ran; None for the first itself.
        budget: what a quantized form may lose; without one, forms differ by ties at most.
        least: smallest accuracy that passes, 0 to 1.
    """
    summary, passed = describe_accuracy(after), True
    if before is not None:
        change = after.accuracy - before.accuracy
        tie = max(ACCURACY_TIES, 1 / min(after.counted, before.counted))
        passed = abs(change) <= tie + _ROUNDING if budget is None else -change <= budget.accuracy_drop + _ROUNDING
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
