"""How the time of a step grows with the depth: a line, how far the points are from it, and whether it is flat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.runtimes.bench.timing import Spread

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Quantiles of Student's t, two-sided 95 %, by degrees of freedom from 1 on."""
_NO_LINE = 0.5
"""A residual beyond which a line means nothing: what grows with the square of the depth, or one wild point."""
_ROUNDS, _EXACT = 300, 1e-12
_DRIFT, _FLAT = 0.05, 0.1
"""Rises over all depths as parts of the start: what a machine drifts by during a run, and what no noise excuses."""


@dataclass(frozen=True)
class Growth:
    """Time = start + slope * rows, the line whose largest relative residual is least; and whether there is growth.

    Attributes:
        name: of the candidate.
        batch: number of sequences.
        rows: that a step reads, ascending.
        start_us: of a step that reads nothing.
        slope_us: per row.
        residuals: of every point, relative to it.
        trend_us: slope by least squares of relative errors, which a single wild point moves less.
        trend_error_us: half of its 95 % confidence interval, from the scatter of the points.
        noise_us: median distance between the quartiles of a point.
    """

    name: str
    batch: int
    rows: tuple[float, ...]
    start_us: float
    slope_us: float
    residuals: tuple[float, ...]
    trend_us: float
    trend_error_us: float
    noise_us: float

    @property
    def largest_residual(self) -> float:
        """Without its sign."""
        return max(map(abs, self.residuals))

    @property
    def rise_us(self) -> float:
        """What the trend gains from the first point to the last."""
        return self.trend_us * (self.rows[-1] - self.rows[0])

    @property
    def kind(self) -> str:
        """One of "grows", "flat", "unclear" (the rise is large and cannot be told from noise), and "no line"."""
        if self.largest_residual > _NO_LINE:
            return "no line"
        first = self.start_us + self.slope_us * self.rows[0]
        if self.trend_us > self.trend_error_us and self.rise_us > max(self.noise_us, _DRIFT * first):
            return "grows"
        return "flat" if abs(self.rise_us) <= _FLAT * first else "unclear"  # a fall is a machine that changed

    def describe(self) -> str:
        """In words."""
        if self.kind == "no line":
            return f"no line: it misses a point by {self.largest_residual:.0%}"
        if self.kind == "flat":
            return f"{self.start_us:,.0f} us at any depth (rise {self.rise_us:+,.1f} us, within noise)"
        if self.kind == "unclear":
            return f"cannot be told whether it grows (rise {self.rise_us:+,.1f} us)"
        slope = f"{self.slope_us:.3f} us" if self.slope_us < 10 else f"{self.slope_us:,.0f} us"
        return f"{self.start_us:,.1f} us + {slope} per token before it (largest residual {self.largest_residual:.0%})"


def fit_growth(name: str, batch: int, points: Sequence[tuple[float, Sequence[float]]]) -> Growth:
    """A line through (rows, times by repeat).

    Example: times of 60 + 0.5 t at t = 16, 128, 1,024 give start 60, slope 0.5 and residuals of 0.
    """
    points = sorted(points)
    rows = np.array([row for row, _ in points])
    medians = np.array([float(np.median(times)) for _, times in points])
    design = np.stack([1 / medians, rows / medians], axis=1)  # relative errors: every point weighs the same
    trend = _weighted_line(design, np.ones(len(rows)))
    start, slope = line = _closest_line(design)
    spreads = [Spread.of(times) for _, times in points]
    return Growth(
        name=name,
        batch=batch,
        rows=tuple(map(float, rows)),
        start_us=float(start),
        slope_us=float(slope),
        residuals=tuple(map(float, design @ line - 1)),
        trend_us=float(trend[1]),
        trend_error_us=_interval(design, design @ trend - 1),
        noise_us=float(np.median([spread.high - spread.low for spread in spreads])),
    )


def _weighted_line(design: npt.NDArray[Any], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Start and slope by weighted least squares of relative errors."""
    root = np.sqrt(weights)
    line: npt.NDArray[Any] = np.linalg.lstsq(design * root[:, None], root, rcond=None)[0]
    return line


def _closest_line(design: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Start and slope with the least largest relative error: weights grow where the error is large (Lawson 1961)."""
    weights: npt.NDArray[Any] = np.full(len(design), 1 / len(design))
    best, least = _weighted_line(design, weights), math.inf
    for _ in range(_ROUNDS):
        line = _weighted_line(design, weights)
        errors = np.abs(design @ line - 1)
        if float(errors.max()) < least:
            best, least = line, float(errors.max())
        if least < _EXACT:
            break
        weights = weights * errors
        weights = weights / float(weights.sum())
    return best


def _interval(design: npt.NDArray[Any], residuals: npt.NDArray[Any]) -> float:
    """Half of the slope's confidence interval, as ordinary least squares has it."""
    freedom = len(design) - 2
    if freedom < 1:
        return 0.0
    variance = float(residuals @ residuals) / freedom * float(np.linalg.inv(design.T @ design)[1, 1])
    return _STUDENT[min(freedom, len(_STUDENT)) - 1] * math.sqrt(variance)
