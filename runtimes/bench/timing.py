"""Timing that a shared machine cannot bend much: candidates take turns, and only ratios within one turn are compared.

In every repeat each candidate runs for a moment, in an order that rotates; its time in that repeat is the median of
its steps. A ratio of two candidates is the median over repeats of their per-repeat ratios, so that a slow phase of
the machine, which slows both, cancels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

NOISY_SPREAD = 0.10
"""Quartiles further apart than this part of the median: the machine was busy with something else."""


Measured = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]
"""A time in microseconds, or a ratio of two; the range is checked in files."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: Measured
    low: Measured
    high: Measured

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def noisy(self) -> bool:
        """Whether the values disagree too much to be told from their neighbours."""
        return self.high - self.low > NOISY_SPREAD * self.median

    @property
    def half_width(self) -> float:
        """Half the distance of the quartiles: what stands behind a plus-minus sign."""
        return (self.high - self.low) / 2


def paired_ratio(times: Mapping[str, Sequence[float]], above: str, below: str) -> Spread:
    """Spread of the per-repeat ratios of two candidates."""
    return Spread.of([a / b for a, b in zip(times[above], times[below], strict=True)])


def turns(names: Sequence[str], repeats: int) -> Iterator[str]:
    """Who is next: everyone once per repeat, in an order that changes: nobody always follows another."""
    for repeat in range(repeats):
        shift = repeat % max(len(names), 1)
        order = (*names[shift:], *names[:shift])
        yield from order[::-1] if repeat % 2 else order


def step_times_us(step: Callable[[], object], most: int, budget_s: float) -> list[float]:
    """Time of each of `most` steps in microseconds; fewer, at least one, where the budget is used up before."""
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < most and (not times or time.perf_counter() < end):
        start = time.perf_counter_ns()
        step()
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def fastest_s(call: Callable[[], object], repeats: int) -> float:
    """The shortest of several calls in seconds: what it takes where nothing else is in the way."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e9
