"""What a verification's page and the terminal have to say in the same words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from causalrn.bundle.tolerances import BOUND_FACTOR
from causalrn.runtimes.parity.report import VerifyReport
from causalrn.runtimes.parity.results import Level, LevelResult, Side

LEVEL_WORDS: dict[Level, str] = {
    "contract": "shapes and dtypes of the state, over steps, batch sizes and tokens",
    "logits": "every sequence alone and all as a batch, step by step from a fresh state; every token id",
    "state": "every state tensor on the way, and one step after a reference state was fed in",
    "split": "the same tokens in other splits: prefills, halves, random chunks, batches",
    "layer": "the residual stream between blocks, step by step",
    "rows": "every row of a batch, and the row alone",
    "isolation": "whether anything of one sequence reaches another",
    "reorder": "the state's rows in another order half-way, as a beam search does",
    "padding": "rows with padding on their left",
    "positions": "steps that are told their position, and steps that find it out",
    "reload": "what the modules save after they ran, loaded into modules that never have",
    "calls": "random walks over everything that a session offers",
    "drift": "the error along one long run, and the state at its end",
    "task": "accuracy on what the model was trained for, before and after",
    "determinism": "what is equal bit for bit",
    "kernels": "every graph, instruction set, engine and program of the bundle by itself",
    "guards": "what has to be refused",
}
"""What each level compares, in a few words; docs/parity.md and docs/own-models.md have all of it."""


def headline(results: Sequence[LevelResult]) -> str:
    """The outcome in a sentence: how many checks there were, and what fails where; empty where nothing was checked."""
    bad: dict[str, list[str]] = {}
    for result in results:
        if not result.passed and result.level not in bad.setdefault(result.subject, []):
            bad[result.subject].append(result.level)
    if not results:
        return ""
    if not bad:
        return "The only check passes." if len(results) == 1 else f"All {len(results)} checks pass."
    failing = sum(not result.passed for result in results)
    where = "; ".join(f"{subject} at {', '.join(levels)}" for subject, levels in bad.items())
    return f"{failing} of {len(results)} checks {'fails' if failing == 1 else 'fail'}: {where}."


def explain_limits(report: VerifyReport) -> str:
    """What errors refer to, and what judges them: rounding or a budget; empty where nothing was judged."""
    if not report.results:
        return ""
    budget = report.settings.budget
    if report.state is None and budget is not None:
        return (
            f"the bundle is judged by budgets, not by rounding: KL divergence {budget.kl_divergence:g} nats, most "
            f"likely token changed {100 * budget.argmax_changes:g} % (ties not counted), accuracy lost "
            f"{100 * budget.accuracy_drop:g} points, all logits scaled by {100 * budget.scale:g} % or shifted by "
            f"{100 * budget.offset:g} % of the largest, with a margin for chance on few positions; parallel and "
            "recurrent by rounding."
        )
    error = f"error: relative to the largest |value| (logits: {report.reference.largest_logit:.3g}); "
    allowed = f"allowed: {BOUND_FACTOR:g} x what float32 rounding does to this model"
    if report.state is not None:
        return f"{error}{allowed}'s operations on these tokens (docs/parity.md)."
    itself = f"{report.reference.float64_recurrent_relative_error:.0e}"
    return (
        f"{error}{allowed} on these tokens (docs/parity.md). States are compared with the float64 recurrent form, "
        f"itself {itself} from the oracle."
    )


def describe_side(side: Side) -> tuple[str, str, str, str, str]:
    """What one way of computing a failing step gave: by what, from which state, error, allowed, and what is wrong."""
    shown, state = side.first or side.worst, side.state.name.lower()
    if side.problem or shown is None:
        return side.runtime, state, "-", "-", side.problem
    wrong = "nothing" if side.first is None else f"{side.first.place}, {side.first.tensor}"
    return side.runtime, state, figure_text(shown.error), figure_text(shown.allowed), wrong


def figure_text(value: float | None) -> str:
    """An error as people read it; a dash where there is none."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def describe_shares(counts: Sequence[tuple[int, int]], places: Sequence[str], what: str) -> str:
    """Shares that are right, place by place, equal neighbours together.

    Args:
        counts: how many there were and how many were right, of each place.
        places: their names, e.g. positions or lengths.
        what: a place, for people, e.g. "position".

    Example:
        >>> describe_shares([(8, 8), (8, 8), (8, 6)], ["1", "2", "3"], "position")
        '100 % at positions 1 to 2, 75 % at 3'
        >>> describe_shares([(8, 8), (8, 8)], ["1", "2"], "position")
        '100 % at all 2 positions'
    """
    shown = [(place, f"{100 * right / counted:.4g} %") for place, (counted, right) in zip(places, counts, strict=True)]
    groups = [(share, [place for place, _ in each]) for share, each in itertools.groupby(shown, lambda pair: pair[1])]
    if len(groups) == 1 and len(shown) > 1:
        return f"{groups[0][0]} at all {len(shown)} {what}s"
    parts = []
    for index, (share, names) in enumerate(groups):
        span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        noun = "" if index else f"{what}{'s' * (len(names) > 1)} "
        parts.append(f"{share} at {noun}{span}")
    return ", ".join(parts)
