"""What a calibration table has of each tensor and of each rollout; impossible values are refused when they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from causalrn.calibration.observers import Histogram

_LEAST_BINS, _MOST_BINS, _MOST_COUNTED = 128, 8192, 2**63 - 1
"""As many bins as int8 has levels on one side are searched at least; with too many the search would never end."""


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value of one tensor at every position, over all rollouts.

    Attributes:
        lowest, highest: by position.

    Raises:
        ValueError: no positions, not as many of one as of the other, values that are not finite or upside down.
    """

    lowest: tuple[float, ...]
    highest: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lowest or len(self.lowest) != len(self.highest):
            raise ValueError(f"ranges of {len(self.lowest)} lowest and {len(self.highest)} highest values")
        if not all(-math.inf < low <= high < math.inf for low, high in zip(self.lowest, self.highest, strict=True)):
            raise ValueError("ranges that are not finite, or upside down")

    @property
    def largest(self) -> float:
        """Largest |value| at any position."""
        return max(-min(self.lowest), max(self.highest))

    def at(self, position: int) -> float:
        """Largest |value| at a position; negative ones count from the end."""
        return max(-self.lowest[position], self.highest[position])


@dataclass(frozen=True)
class Activation:
    """What is multiplied by a weight.

    Attributes:
        limit, counts: of the histogram over the sampled steps.
        by_position: its ranges over all steps.

    Raises:
        ValueError: no histogram that :mod:`causalrn.calibration.observers` could have counted.
    """

    limit: float
    counts: tuple[int, ...]
    by_position: Ranges

    def __post_init__(self) -> None:
        if not _LEAST_BINS <= len(self.counts) <= _MOST_BINS or len(self.counts) % 2:
            raise ValueError(f"a histogram of {len(self.counts)} bins")
        if min(self.counts) < 0 or not 0 < sum(self.counts) <= _MOST_COUNTED:
            raise ValueError("a histogram with negative counts, none, or more than there can be")
        if not 0 < self.limit <= float(np.finfo(np.float32).max):
            raise ValueError(f"a histogram up to {self.limit}")

    @property
    def histogram(self) -> Histogram:
        """The histogram, for searching limits."""
        return Histogram(np.array(self.counts, np.int64), self.limit)


@dataclass(frozen=True)
class Rollout:
    """One rollout; it begins with a reset.

    Attributes:
        sequences, steps: that ran in lockstep, and the length of each.
        given: tokens that came from prompts, over all sequences.
        sampled: positions that were looked at for the histograms.

    Raises:
        ValueError: nothing was given.
    """

    sequences: int
    steps: int
    given: int
    sampled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.sequences, self.steps, self.given) < 1:
            raise ValueError("a rollout without sequences, steps or given tokens")
