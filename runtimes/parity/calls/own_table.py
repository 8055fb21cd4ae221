"""What calls of a quantized form are compared with: itself step by step, which its budget judges first."""

from __future__ import annotations

import time

import numpy as np

from causalrn.bundle.tolerances import Budget
from causalrn.errors import CausalRNError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.budgets import describe_judged, judge_agreement
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.parity.comparison import compare_distributions
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.results import LevelResult, not_finite
from causalrn.runtimes.snapshot import FloatArray, IntArray

_LEAST_STEPS = 16


def table_of_steps(
    runtime: str, session: CellSession, table: CallTable, budget: Budget, deadline: float
) -> CallTable | LevelResult:
    """Take the rows of a table step by step, as far as there is time for.

    Args:
        runtime: name of the result.
        session: is reset.
        table: the oracle's.
        budget: judges the steps, and says how far calls may be from them.
        deadline: of `time.monotonic`; a few steps are taken whatever the time.

    Returns:
        The table of what came out, as long as the session got; or a failed result.
    """
    least = max(_LEAST_STEPS, int(table.known[0]) + 1)
    try:
        own = _take_steps(session, table.tokens, least, deadline)
    except CausalRNError as error:
        return LevelResult("calls", runtime, False, f"step by step: {error}")
    if not np.isfinite(own).all():
        return not_finite("calls", runtime)
    table = table.cut(own.shape[1])
    judged = judge_agreement(compare_distributions(own[:, table.known], table.logits), budget.between_calls)
    if not all(figure.passed for figure in judged):
        words, figures = f"step by step: {describe_judged(judged)}", Figures(judged=judged)
        return LevelResult("calls", runtime, False, words, figures=figures)
    return table.of_own(own, budget.split * table.largest)


def _take_steps(session: CellSession, tokens: IntArray, least: int, deadline: float) -> FloatArray:
    """Logits [R, S, V] of tokens [R, T], S <= T; as many rows at once as the session takes."""
    most, steps = session.max_batch or len(tokens), tokens.shape[1]
    groups = [tokens[first : first + most] for first in range(0, len(tokens), most)]
    parts: list[FloatArray] = []
    for done, rows in enumerate(groups):
        now = time.monotonic()
        end = now + (deadline - now) / (len(groups) - done)
        session.reset(len(rows))
        logits = []
        for position in range(steps):
            if position >= least and time.monotonic() > end:
                break
            logits.append(session.step(rows[:, position]))
        steps = len(logits)
        parts.append(np.stack(logits, axis=1))
    return np.concatenate([part[:, :steps] for part in parts])
