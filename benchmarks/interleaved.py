"""Candidates that take turns, and ratios held to targets; turns are those of causalrn.runtimes.bench.timing."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from causalrn.runtimes.bench.timing import Spread, paired_ratio, turns

__all__ = ["Spread", "Verdict", "measure", "median_step_us", "paired_ratio"]


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
"""Runs a candidate for a moment and gives the time of one step in microseconds."""


def measure(candidates: Mapping[str, Sample], repeats: int, advance: Callable[[int], object]) -> dict[str, list[float]]:
    """Time of every candidate in every repeat; `advance(1)` is called after each sample."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        for name in turns(list(candidates), repeats):
            times[name].append(candidates[name]())
            advance(1)
    finally:
        gc.enable()
    return times


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
