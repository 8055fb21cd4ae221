"""Timing that a shared machine cannot bend much: contestants take turns, and only ratios within one turn are compared.

In every repeat each contestant runs for a moment, in an order that rotates; its time in that repeat is the median of
its steps. A ratio of two contestants is the median over repeats of their per-repeat ratios, so that a slow phase of
the machine, which slows both, cancels.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

NOISY_SPREAD = 0.10
"""Quartiles further apart than this part of the median: the machine was busy with something else."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def noisy(self) -> bool:
        return self.high - self.low > NOISY_SPREAD * self.median


@dataclass(frozen=True)
class Verdict:
    """A ratio against a target: "met", "missed", or "unclear" where the target lies between the quartiles."""

    ratio: Spread
    target: float | None
    at_least: bool = True

    @property
    def word(self) -> str:
        if self.target is None:
            return ""
        if self.ratio.low < self.target < self.ratio.high:
            return "unclear"
        good = self.ratio.median >= self.target if self.at_least else self.ratio.median <= self.target
        return "met" if good else "missed"

    @property
    def target_text(self) -> str:
        return "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:g}"


Sample = Callable[[], float]
"""Runs a contestant for a moment and gives the time of one step in microseconds."""


def measure(
    contestants: Mapping[str, Sample], repeats: int, advance: Callable[[int], object]
) -> dict[str, list[float]]:
    """Time of every contestant in every repeat; `advance(1)` is called after each sample."""
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            shift = repeat % len(names)
            for name in names[shift:] + names[:shift]:
                times[name].append(contestants[name]())
                advance(1)
    finally:
        gc.enable()
    return times


def paired_ratio(times: Mapping[str, list[float]], above: str, below: str) -> Spread:
    """Spread of the per-repeat ratios of two contestants."""
    return Spread.of([a / b for a, b in zip(times[above], times[below], strict=True)])


def median_step_us(step: Callable[[], object], undo: Callable[[], object], budget_s: float, least: int = 9) -> float:
    """Median time of a step, in microseconds: two untimed ones, then as many as fit the budget."""
    for _ in range(2):
        step()
        undo()
    times = []
    end = time.perf_counter() + budget_s
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter_ns()
        step()
        times.append(time.perf_counter_ns() - start)
        undo()
    return statistics.median(times) / 1000
