"""Curves as SVG for self-contained pages: charts.html.j2 draws them, page_style.css.j2 colours them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 16, 40, 64
_MOST_TICKS = 6
COLOURS = 8
"""How many there are beside that of dashed lines, which are limits and formulas."""


@dataclass(frozen=True)
class Curve:
    """What is drawn: values over x.

    Attributes:
        figure: place of the values in the report that the page carries.
        colour: 1 to :data:`COLOURS`; 0 for what is no measurement.
        values: None where there is none: the line breaks.
        dots: whether every value has a mark.
    """

    name: str
    x: Sequence[float]
    values: Sequence[float | None]
    figure: str
    colour: int
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn."""

    name: str
    colour: int
    path: str
    figure: str
    dashed: bool
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        title: the quantity with its unit.
        label: of a value.
        ticks: where labels stand; empty for round numbers.
    """

    title: str
    label: Callable[[float], str]
    ticks: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Curves, values in logarithms."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def draw_chart(title: str, curves: Sequence[Curve], x_axis: Axis, y_axis: Axis, *, logarithmic: bool) -> Chart | None:
    """A chart of curves; None where there is nothing to draw.

    Args:
        logarithmic: whether x is drawn in logarithms, too.
    """
    known = [value for curve in curves for value in curve.values if value]
    steps = [max(step, 1.0) if logarithmic else step for curve in curves for step in curve.x]
    if not known or len(set(steps)) < 2:
        return None
    x = _Scale(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT, logarithmic)
    y = _Scale(min(known) / 1.5, max(known) * 1.5, _HEIGHT - _BOTTOM, _TOP, True)
    return Chart(
        title,
        x_axis.title,
        y_axis.title,
        tuple(_line(curve, x, y) for curve in curves),
        tuple((x.at(tick), x_axis.label(tick)) for tick in x_axis.ticks or x.ticks()),
        tuple((y.at(tick), y_axis.label(tick)) for tick in y_axis.ticks or y.ticks()),
    )


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, max(value, self.low)))
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)

    def ticks(self) -> list[float]:
        return round_logarithms(self.low, self.high) if self.logarithmic else round_numbers(self.low, self.high)


def round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at most six, evenly spread.

    Example:
        >>> round_numbers(0, 17)
        [0.0, 5.0, 10.0, 15.0]
    """
    unit = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(unit * factor for factor in (1, 2, 5, 10) if (high - low) / (unit * factor) < _MOST_TICKS)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_logarithms(low: float, high: float) -> list[float]:
    """Powers of ten; with 5, or 2 and 5, of each where there are few.

    Example:
        >>> round_logarithms(1, 18)
        [1.0, 2.0, 5.0, 10.0]
        >>> round_logarithms(2e-8, 1e-1)
        [1e-07, 1e-05, 0.001, 0.1]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [float(f"1e{power}") for power in range(first, last + 1)]
    inside = [power for power in powers if low <= power <= high]
    if len(inside) > 2:
        return inside[:: -(-len(inside) // _MOST_TICKS)]
    finer: list[float] = []
    for factors in ((1, 2, 5), (1, 5)):
        ticks = [float(f"{factor * power:.0e}") for power in powers for factor in factors]
        finer = [tick for tick in ticks if low <= tick <= high]
        if len(finer) <= _MOST_TICKS:
            break
    return finer


def _line(curve: Curve, x: _Scale, y: _Scale) -> Line:
    """It breaks where a value is no number, and rests on the axis where it is zero."""
    parts, dots, pen = [], [], "M"
    for step, value in zip(curve.x, curve.values, strict=True):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x.at(step)} {y.at(value)}")
        dots.append((x.at(step), y.at(value)))
        pen = "L"
    shown = tuple(dots) if curve.dots else ()
    return Line(curve.name, curve.colour, " ".join(parts), curve.figure, curve.dashed, shown)
