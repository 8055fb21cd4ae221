"""Numbers on the command line: what `--help` calls them, and what is said of one that cannot be."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST_COUNT = 2**31 - 1
"""Of numbers that only memory and patience bound."""


class Whole(click.ParamType[int]):
    """A whole number, N in `--help`.

    Args:
        least, most: what it may be; bounds that a user may meet stand in the option's help.
    """

    name = "N"

    def __init__(self, least: int, most: int = LARGEST_COUNT) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """Read a number."""
        try:
            number = int(value)
        except (ValueError, TypeError):
            self.fail(f"{value!r} is no whole number.", parameter, context)
        if not self.least <= number <= self.most:
            self.fail(f"{number} is not in the range {_range(self.least, self.most)}.", parameter, context)
        return number


class Real(click.ParamType[float]):
    """A finite number, X in `--help`.

    Args:
        least, most: what it may be; None is without a bound.
    """

    name = "X"

    def __init__(self, least: float | None = None, most: float | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Read a number; NaN compares with nothing, so a range alone would let it through."""
        try:
            number = float(value)
        except (ValueError, TypeError):
            self.fail(f"{value!r} is no number.", parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", parameter, context)
        low, high = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
        if not low <= number <= high:
            self.fail(f"{number:g} is not in the range {_range(low, high)}.", parameter, context)
        return number


def _range(low: float, high: float) -> str:
    """A range in words.

    Example:
        >>> _range(1, 256), _range(2, LARGEST_COUNT), _range(0.0, math.inf)
        ('1 to 256', 'from 2 on', 'from 0 on')
    """
    if high in (math.inf, LARGEST_COUNT):
        return f"from {low:,g} on" if isinstance(low, float) else f"from {low:,} on"
    return f"{low:g} to {high:g}" if isinstance(low, float) else f"{low:,} to {high:,}"
