"""Times, sizes, rates and ratios as people read them, on pages and in terminals."""

from __future__ import annotations

import math

from causalrn.runtimes.bench.timing import Spread


def time_text(microseconds: float) -> str:
    """A time with three digits and the unit that fits, e.g. "57.2 us", "1.29 ms", "18.1 s"."""
    for limit, scale, unit in ((999.5, 1.0, "us"), (999_500.0, 1e3, "ms"), (math.inf, 1e6, "s")):
        if microseconds < limit:
            return f"{_three_digits(microseconds / scale)} {unit}"
    raise ValueError(microseconds)


def bytes_text(size: float | None) -> str:
    """A size with the unit that fits, in powers of 1,000; a dash where it is not known."""
    if size is None:
        return "-"
    for limit, scale, unit in ((1e3, 1.0, "B"), (999_500.0, 1e3, "kB"), (999.5e6, 1e6, "MB"), (math.inf, 1e9, "GB")):
        if abs(size) < limit:
            return f"{size:.0f} {unit}" if scale == 1.0 else f"{_three_digits(size / scale)} {unit}"
    raise ValueError(size)


def rate_text(rate: float) -> str:
    """Tokens per second."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def share_text(share: float | None) -> str:
    """Floor over time in percent; a dash where the floor is not known."""
    if share is None:
        return "-"
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def ratio_text(ratio: Spread | None) -> str:
    """A paired ratio; a tilde where one lies between its quartiles. Empty for the one that others relate to."""
    if ratio is None:
        return ""
    return f"{'~' if ratio.low <= 1 <= ratio.high else ''}{_three_digits(ratio.median)}"


def counted(count: int, noun: str) -> str:
    """A number and what it counts, e.g. "1 line", "2,048 lines"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
