"""How an error grows with the step number: flat, linear or exponential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from causalrn.runtimes.snapshot import FloatArray

_LEAST_POINTS, _LEAST_STEPS = 5, 24
_LEAST_GROWTH = 2.0
_DECADE = 10.0
_PENALTY = 0.05
_SLOPES = np.geomspace(1e-3, 1e6, 200)
"""Candidates for d in error = c (1 + d t / T): how many times its beginning the error gains over the run."""


@dataclass(frozen=True)
class Growth:
    """A law fitted to errors at so many steps.

    Attributes:
        name: "flat" (error = start), "linear" (start + rate * t) or "exponential" (start * exp(rate * t)).
        start: the error at step 0.
        rate: per step; relative to nothing for linear, an exponent for exponential, 0 for flat.
    """

    name: Literal["flat", "linear", "exponential"]
    start: float
    rate: float

    def at(self, step: float) -> float:
        """The error that the law predicts; infinite where that overflows."""
        if self.name == "exponential":
            exponent = math.log(self.start) + self.rate * step
            return math.exp(exponent) if exponent < 700 else math.inf
        return self.start + self.rate * step


def fit_growth(steps: FloatArray, errors: FloatArray) -> Growth:
    """Fit the three laws to log errors and choose the simplest that explains them.

    Errors scatter by a factor, not by a summand, so the fit is in logarithms. Only the last tenfold of the steps
    counts: before, an error settles. A law that grows is chosen only if it leaves a mean square clearly smaller than
    flat, and the error at least doubles over what counts; fewer than five points are flat, and so are a few steps.

    Args:
        steps: [n], increasing.
        errors: [n]; zeros and what is not finite are left out.
    """
    known = np.isfinite(errors) & (errors > 0) & (steps >= steps[-1] / _DECADE)
    if known.sum() < _LEAST_POINTS or steps[-1] < _LEAST_STEPS:  # the first steps differ from each other anyhow
        return Growth("flat", float(np.median(errors[known])) if known.any() else 0.0, 0.0)
    at, logs = steps[known].astype(np.float64), np.log(errors[known].astype(np.float64))
    flat = Growth("flat", float(np.exp(logs.mean())), 0.0)
    laws = [law for law in (_fit_linear(at, logs), _fit_exponential(at, logs)) if _gain(law, at) >= _LEAST_GROWTH]
    best = min(laws, key=lambda law: _misfit(law, at, logs), default=flat)
    improves = _misfit(best, at, logs) < _misfit(flat, at, logs) / 2 - _PENALTY**2
    return best if improves else flat


def _fit_linear(steps: FloatArray, logs: FloatArray) -> Growth:
    def law(slope: float) -> Growth:
        shape = np.log1p(slope * steps / steps[-1])
        start = float(np.exp((logs - shape).mean()))
        return Growth("linear", start, start * slope / float(steps[-1]))

    return min(map(law, _SLOPES.tolist()), key=lambda candidate: _misfit(candidate, steps, logs))


def _fit_exponential(steps: FloatArray, logs: FloatArray) -> Growth:
    rate, start = np.polyfit(steps, logs, 1)
    return Growth("exponential", float(np.exp(start)), float(rate))


def _gain(law: Growth, steps: FloatArray) -> float:
    return law.at(float(steps[-1])) / law.at(float(steps[0]))


def _misfit(law: Growth, steps: FloatArray, logs: FloatArray) -> float:
    """Mean square of the logarithms' differences."""
    predicted = np.log([max(law.at(step), 1e-300) for step in steps.tolist()])
    return float(np.square(predicted - logs).mean())
