"""The line that fits a run's logits best: what is wrong with all of them at once shows in its scale and offset.

Distributions hide such damage: logits that are 3 % too large leave the most likely token, and logits that are all too
large by one number leave every distribution as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from causalrn.runtimes.snapshot import FloatArray

LEAST_POSITIONS = 32
"""Runs over fewer positions are fitted together: a few hundred logits would show their rounding, not a scale."""


@dataclass(frozen=True)
class LogitFit:
    """The line output = scale x expected + offset, by least squares.

    Attributes:
        scale: 1 where all is well.
        offset: relative to the largest |expected logit|; 0 where all is well.

    Example:
        >>> fit_logits([(np.array([[[2.5, 4.5, 6.5]]]), np.array([[[1.0, 2.0, 3.0]]]))])
        LogitFit(scale=2.0, offset=0.16666666666666666)
    """

    scale: float
    offset: float


@dataclass(frozen=True)
class FitSums:
    """What a fit needs of the values, added up: of a run that comes in parts, the parts' sums are those of the whole.

    Attributes:
        count: how many values.
        expected, output, squares, products: sums of x, y, x * x and x * y, x being expected and y output.
        largest: largest |expected value|.
    """

    count: float = 0.0
    expected: float = 0.0
    output: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, output: FloatArray, expected: FloatArray) -> FitSums:
        """The sums of logits of any shape."""
        x, y = expected.astype(np.float64).ravel(), output.astype(np.float64).ravel()
        return cls(x.size, *map(float, (x.sum(), y.sum(), x @ x, x @ y, np.abs(x).max())))

    def __add__(self, other: FitSums) -> FitSums:
        """The sums of both."""
        return FitSums(
            self.count + other.count,
            self.expected + other.expected,
            self.output + other.output,
            self.squares + other.squares,
            self.products + other.products,
            max(self.largest, other.largest),
        )

    def fit(self) -> LogitFit:
        """The line; NaN stays NaN, and expected values that are all equal have no scale: it is 1."""
        spread = self.squares - self.expected**2 / self.count
        together = self.products - self.expected * self.output / self.count
        scale = together / spread if spread > 0 else 1.0 + 0.0 * together
        return LogitFit(scale, (self.output - scale * self.expected) / self.count / (self.largest or 1.0))


def fit_logits(runs: Iterable[tuple[FloatArray, FloatArray]]) -> LogitFit:
    """Of the fits of all runs the scale furthest from 1, and the offset furthest from 0; NaN is furthest.

    Args:
        runs: output and expected logits [B, T, V] of each. Those of fewer than :data:`LEAST_POSITIONS` positions are
            fitted together.
    """
    fits, short = [], FitSums()
    for output, expected in runs:
        sums = FitSums.of(output, expected)
        if expected[..., 0].size >= LEAST_POSITIONS:
            fits.append(sums.fit())
        else:
            short += sums
    fits += [short.fit()] if short.count else []
    scales, offsets = np.array([(fit.scale - 1, fit.offset) for fit in fits]).T
    return LogitFit(1 + _furthest(scales), _furthest(offsets))


def _furthest(values: FloatArray) -> float:
    """The value furthest from 0, NaN before all."""
    return float(values[np.argmax(np.abs(values))])  # the first NaN is the largest
