"""Observers: histograms of what rollouts show, and the limit that int8 should reach, by three methods.

The searches for a limit are onnxruntime's; the counting is not, for its collector adds bins without bound.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization.calibrate import HistogramCollector

from causalrn.runtimes.snapshot import Array

DEFAULT_PERCENTILE = 99.99
_BINS, _QUANTIZED_BINS = 2048, 128


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in equal bins from -limit to limit.

    Attributes:
        counts: int64 [n], n even.
        limit: at least the largest |value|; a power of two, so that ranges grow by joining bins in pairs.
    """

    counts: npt.NDArray[np.int64]
    limit: float

    @property
    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts of |values| in bins from 0 to limit, int64 [n / 2]."""
        half = len(self.counts) // 2
        folded: npt.NDArray[np.int64] = self.counts[half:] + self.counts[:half][::-1]
        return folded

    def with_values(self, values: Array) -> Histogram:
        """This histogram and further values."""
        largest = float(np.abs(values).max(initial=0.0))
        counts, limit = self.counts, self.limit
        while limit < largest:
            counts, limit = _widen(counts), 2 * limit
        return Histogram(counts + np.histogram(values, len(counts), (-limit, limit))[0], limit)

    @classmethod
    def of(cls, values: Array) -> Histogram:
        """The histogram of some values."""
        largest = float(np.abs(values).max(initial=0.0))
        limit = 2.0 ** np.ceil(np.log2(largest)) if largest > 0 else 2.0**-20
        return cls(np.zeros(_BINS, np.int64), float(limit)).with_values(values)


def _widen(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same counts in bins of twice the width, around the same middle."""
    wide, quarter = np.zeros_like(counts), len(counts) // 4
    wide[quarter:-quarter] = counts.reshape(-1, 2).sum(1)
    return wide


class HistogramObserver:
    """Counts values of many tensors."""

    def __init__(self) -> None:
        self.histograms: dict[str, Histogram] = {}

    def observe(self, name: str, values: Array) -> None:
        """Count the values of one tensor."""
        known = self.histograms.get(name)
        self.histograms[name] = Histogram.of(values) if known is None else known.with_values(values)


def histogram_limits(
    histograms: Mapping[str, Histogram], method: str, percentile: float = DEFAULT_PERCENTILE
) -> dict[str, float]:
    """The largest |value| that int8 should hold, by tensor; beyond it values are clipped.

    Args:
        method: "percentile", or "entropy" (onnxruntime's search for the limit that loses least information).
        percentile: share of values, in percent, that are not clipped, up to a bin's width, for the method of that name.
    """
    collector = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=_BINS,
        num_quantized_bins=_QUANTIZED_BINS,
        percentile=percentile,
        scenario="same",
    )
    for name, histogram in histograms.items():
        limit = np.float32(histogram.limit)
        counts = histogram.magnitudes if method == "percentile" else histogram.counts
        low = np.float32(0) if method == "percentile" else -limit
        edges = np.linspace(low, limit, len(counts) + 1, dtype=np.float32)
        collector.histogram_dict[name] = (counts, edges, -limit, limit, limit)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress by print
        ranges = collector.compute_collection_result()
    return {name: float(max(abs(low), abs(high))) for name, (low, high, *_) in ranges.items()}
