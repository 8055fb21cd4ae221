"""What a verification checks, and how its time is shared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from causalrn.runtimes.parity.results import LEVELS, Level
from causalrn.training.tasks import Examples, Task

CALLS_SHARE, DRIFT_SHARE, TASK_SHARE = 0.1, 0.5, 0.4
"""Of the time that is left, what the levels may take that could take any time."""

TORCH_CALLS_SECONDS = 1.0
"""The recurrent form in PyTorch is not what ships: it makes as many calls as there is time for in this."""


@dataclass(frozen=True)
class Plan:
    """What to check.

    Attributes:
        levels: which of :data:`LEVELS`.
        fail_fast: stop after the first level at which anything fails.
        deadline: of `time.monotonic`: task and drift take fewer samples and steps where time gets short; a level that
            is not reached is not checked.
        examples: for the task; None where there is none.
        least_accuracy: smallest accuracy that passes, 0 to 1.
        whole_drift: run all of the long sequence whatever the budget.
        torch_seconds: for the calls of forms in PyTorch.
    """

    levels: tuple[Level, ...] = LEVELS
    fail_fast: bool = False
    deadline: float = math.inf
    task: Task | None = None
    examples: Examples | None = None
    least_accuracy: float | None = None
    whole_drift: bool = False
    torch_seconds: float = TORCH_CALLS_SECONDS
