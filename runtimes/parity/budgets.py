"""What a budget judges: each figure beside its limit, for every row that is not judged by rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from causalrn.bundle.tolerances import CHANCE, Budget
from causalrn.runtimes.parity.comparison import Agreement, step_errors
from causalrn.runtimes.parity.entries import Figure, ReportEntry
from causalrn.runtimes.snapshot import FloatArray

FigureName = Literal["KL divergence", "changed", "scale", "offset", "itself", "itself, typically", "state"]


class JudgedFigure(ReportEntry, frozen=True):
    """A figure that a budget judges.

    Attributes:
        name: "KL divergence" in nats; "changed", the share of most likely tokens; "scale" and "offset" of all logits;
            "itself" and "itself, typically", the largest and the median difference from other outputs of the same
            form; "state", the largest error of a state tensor or stream. Errors and offsets are relative.
        value: what was measured; None where NaN came out, or nothing.
        limit: the furthest that passes; of a scale on its own side of 1, of an offset on its own side of 0.
        passed: whether the value is within; NaN and None never are.
    """

    name: FigureName
    value: Figure
    limit: float
    passed: bool

    @classmethod
    def of(cls, name: FigureName, value: Figure, most: float) -> JudgedFigure:
        """Judge a value that may be `most` away from where it should be: 1 for a scale, 0 for all others."""
        away = math.nan if value is None else value - _aim(name)
        limit = _aim(name) + math.copysign(most, away) if name in ("scale", "offset") and away else _aim(name) + most
        return cls(name, value, limit, abs(away) <= most)

    @property
    def load(self) -> float:
        """How much of the limit is used, 1 being all; infinite where it is not within."""
        if self.value is None or math.isnan(self.value):
            return math.inf
        away, most = abs(self.value - _aim(self.name)), abs(self.limit - _aim(self.name))
        return away / most if most else 0.0 if away == 0 else math.inf

    def describe(self) -> str:
        """The value with its limit: "scale 1.005 (limit 1.01)", "KL 8.0e-04 > 1e-06"."""
        value = math.nan if self.value is None else self.value
        short = {"KL divergence": "KL", "itself": "off itself by", "state": "a state is off by"}
        measured, limit = f"{short.get(self.name, self.name)} {value:.1e}", f"{self.limit:.2g}"
        if self.name == "changed":
            measured, limit = f"{100 * value:.3g}% changed", f"{100 * self.limit:.3g}%"
        elif self.name == "scale":
            measured, limit = f"scale {value:.4g}", f"{self.limit:g}"
        if self.passed or math.isnan(value):
            return f"{measured} (limit {limit})"
        return f"{measured} {'>' if value > self.limit else '<'} {limit}"


def _aim(name: FigureName) -> float:
    """What a figure is where nothing was lost."""
    return 1.0 if name == "scale" else 0.0


def judge_agreement(
    agreement: Agreement, budget: Budget, distinct: int | None = None, *, is_sample: bool = True
) -> tuple[JudgedFigure, ...]:
    """What distributions and all logits lost, beside what a budget allows.

    Args:
        distinct: how many different positions there are, where the same ones were run several times.
        is_sample: whether the positions are few of those that the budget speaks of: then a mean over n of them may
            exceed it by three standard errors, as chance has it. A changed token counts 0 or 1, and divergences
            spread as wide as their mean.
    """
    count = agreement.positions if is_sample else None
    count = count if count is None or distinct is None else min(count, distinct)
    changes, kl = budget.argmax_changes, budget.kl_divergence
    if count:
        changes += CHANCE * math.sqrt(changes * (1 - changes) / count)
        kl *= 1 + CHANCE / math.sqrt(count)
    return (
        JudgedFigure.of("KL divergence", agreement.kl_divergence, kl),
        JudgedFigure.of("changed", agreement.argmax_changes, changes),
        JudgedFigure.of("scale", agreement.scale, budget.scale),
        JudgedFigure.of("offset", agreement.offset, budget.offset),
    )


def judge_repeats(
    pairs: Sequence[tuple[FloatArray, FloatArray]], largest: float, budget: Budget, most: float
) -> tuple[JudgedFigure, ...]:
    """Whether a quantized form repeats its outputs of before, in other calls or elsewhere: the worst of all pairs.

    Args:
        pairs: of logits [B, T, V].
        largest: largest |logit|.
        most: largest difference allowed, relative to that.
    """
    errors = [step_errors(output, before) / largest for output, before in pairs]
    worst = float(np.max([each.max() for each in errors]))
    typical = float(np.max([np.median(each) for each in errors]))
    figures = ("itself", worst, most), ("itself, typically", typical, budget.typical)
    return tuple(JudgedFigure.of(*figure) for figure in figures)  # type: ignore[arg-type]


def describe_judged(figures: Sequence[JudgedFigure]) -> str:
    """For people: what decides, see :func:`decisive_figures`."""
    return ", ".join(figure.describe() for figure in decisive_figures(figures))


def decisive_figures(figures: Sequence[JudgedFigure]) -> list[JudgedFigure]:
    """Everything beyond its limit; or where all is within, what is nearest to its limit."""
    beyond = [figure for figure in figures if not figure.passed]
    if beyond:
        return beyond
    lossy = [figure for figure in figures if figure.name != "state"]  # whose limit is for another tensor's values
    return [max(lossy, key=lambda figure: figure.load)]
