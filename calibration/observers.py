"""Observers: histograms of what rollouts show, and the limit that int8 should reach, by three methods.

onnxruntime's collector does the counting and the search; here it is kept quiet and can be written down.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization.calibrate import HistogramCollector

from causalrn.runtimes.session import Array

DEFAULT_PERCENTILE = 99.99
_BINS, _QUANTIZED_BINS = 512, 128


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in equal bins from -limit to limit.

    Attributes:
        counts: int64 [n].
        lowest, highest: smallest and largest value.
        limit: largest |value|, or a little more where the range had to grow.
    """

    counts: npt.NDArray[np.int64]
    lowest: float
    highest: float
    limit: float

    @property
    def largest(self) -> float:
        """Largest |value|."""
        return max(-self.lowest, self.highest)


class HistogramObserver:
    """Counts values of many tensors."""

    def __init__(self) -> None:
        self._collector = _collector("entropy", DEFAULT_PERCENTILE)

    def observe(self, name: str, values: Array) -> None:
        """Count the values of one tensor."""
        self._collector.collect_value({name: values})

    def histograms(self) -> dict[str, Histogram]:
        """What was counted so far, by tensor."""
        entries = self._collector.get_histogram_dict()
        return {
            name: Histogram(counts.astype(np.int64), float(lowest), float(highest), float(limit))
            for name, (counts, _, lowest, highest, limit) in entries.items()
        }


def int8_limits(
    histograms: Mapping[str, Histogram], method: str, percentile: float = DEFAULT_PERCENTILE
) -> dict[str, float]:
    """The largest |value| that int8 should hold, by tensor; beyond it values are clipped.

    Args:
        method: one of :data:`causalrn.quantization.CALIBRATION_METHODS`.
        percentile: share of values, in percent, that are not clipped, for the method of that name.
    """
    if method == "minmax":
        return {name: histogram.largest for name, histogram in histograms.items()}
    collector = _collector(method, percentile)
    for name, histogram in histograms.items():
        low, high, limit = (np.float32(value) for value in (histogram.lowest, histogram.highest, histogram.limit))
        edges = np.linspace(-limit, limit, len(histogram.counts) + 1, dtype=np.float32)
        collector.histogram_dict[name] = (histogram.counts, edges, low, high, limit)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress by print
        ranges = collector.compute_collection_result()
    return {name: float(max(abs(low), abs(high))) for name, (low, high, *_) in ranges.items()}


def _collector(method: str, percentile: float) -> HistogramCollector:
    return HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=_BINS,
        num_quantized_bins=_QUANTIZED_BINS,
        percentile=percentile,
        scenario="same",
    )
