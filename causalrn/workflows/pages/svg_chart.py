"""Curves as SVG for self-contained pages: charts.html.j2 draws them, page_style.css.j2 colours them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 12, 12, 34
COLOURS = 6
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
class Chart:
    """Curves, values in logarithms."""

    title: str
    caption: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def draw_chart(
    title: str,
    caption: str,
    curves: Sequence[Curve],
    *,
    logarithmic: bool,
    label: Callable[[float], str],
    ticks: Sequence[float] = (),
) -> Chart | None:
    """A chart of curves; None where there is nothing to draw.

    Args:
        caption: what x is.
        logarithmic: whether x is drawn in logarithms, too.
        label: of a value on the y axis.
        ticks: of the x axis; empty for round numbers.
    """
    known = [value for curve in curves for value in curve.values if value]
    steps = [max(step, 1.0) if logarithmic else step for curve in curves for step in curve.x]
    if not known or len(set(steps)) < 2:
        return None
    x = _Scale(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT, logarithmic)
    y = _Scale(min(known) / 2, max(known) * 2, _HEIGHT - _BOTTOM, _TOP, True)
    return Chart(
        title,
        caption,
        tuple(_line(curve, x, y) for curve in curves),
        tuple((x.at(tick), f"{tick:,.0f}") for tick in ticks or x.ticks()),
        tuple((y.at(tick), label(tick)) for tick in y.ticks()),
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
        if not self.logarithmic:
            return [round(self.low + part * (self.high - self.low) / 4) for part in range(5)]
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        every = max(1, (last - first) // 5)
        return [10.0**power for power in range(first, last + 1, every)]


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
