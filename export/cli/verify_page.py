"""A verification as one self-contained page: no script, no request, light and dark, readable on a phone.

Every number on it comes from the report's JSON, which the page carries; cells name their place in it (`data-figure`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from causalrn.runtimes import RUNTIMES

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34
_COLOURS = 6
_COLDEST = -3.0
"""Heat map: a thousandth of what is allowed, and less, has no colour."""


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a report in its JSON form, as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("causalrn.export.cli", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["heat"] = _heat
    environment.filters["setting"] = _setting
    indexed = list(enumerate(report["results"]))
    return environment.get_template("verify_page.html.j2").render(
        report=report,
        data=json.dumps(report, allow_nan=False).replace("<", "\\u003c"),  # nothing may end the element that holds it
        charts=[chart for chart in (_steps_chart(indexed), _drift_chart(indexed)) if chart is not None],
        heats=[(index, result) for index, result in indexed if "heat" in result["figures"]],
        accuracies=[(index, result) for index, result in indexed if "after" in result["figures"]],
    )


def _figure(value: float | None) -> str:
    """A number as people read it, the same form as in the terminal."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}" if isinstance(value, float) else str(value)


def _setting(value: Any) -> str:
    """A setting as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {entry:g}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _heat(ratio: float | None) -> float:
    """Strength of a heat map's colour, 0 to 1: the logarithm of error over what is allowed."""
    if ratio is None:
        return 1.0
    return round(min(1.0, max(0.0, 1 - math.log10(max(ratio, 1e-30)) / _COLDEST)), 3)


@dataclass(frozen=True)
class Line:
    """One curve: its name, which colour, the path that is drawn, and where its numbers stand in the report."""

    name: str
    colour: int
    path: str
    figure: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over steps, errors in logarithms."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


_Curve = tuple[str, Sequence[float], Sequence[float | None], str, bool]
"""Name, steps, errors, place in the report, dashed."""


def _steps_chart(results: Sequence[tuple[int, Mapping[str, Any]]]) -> Chart | None:
    curves: list[_Curve] = []
    for index, result in results:
        if "errors" in result["figures"]:
            errors, place = result["figures"]["errors"], f"results.{index}.figures"
            steps = [float(step) for step in range(len(errors))]
            if not curves:
                curves.append(("allowed", steps, result["figures"]["allowed_errors"], f"{place}.allowed_errors", True))
            curves.append((result["form"], steps, errors, f"{place}.errors", False))
    return _chart("Logits: error at each step", curves, logarithmic=False)


def _drift_chart(results: Sequence[tuple[int, Mapping[str, Any]]]) -> Chart | None:
    curves: list[_Curve] = []
    for index, result in results:
        if result["level"] == "drift":
            curve, place = result["figures"]["curve"], f"results.{index}.figures.curve"
            steps = [float(step) for step in curve["steps"]]
            if not curves:
                curves.append(("allowed", steps, curve["allowed"], f"{place}.allowed", True))
            growth = result["figures"]["growth"]["name"]
            curves.append((f"{result['form']}, {growth}", steps, curve["largest"], f"{place}.largest", False))
    return _chart("Drift: largest error of each stretch of a long run", curves, logarithmic=True)


def _chart(title: str, curves: Sequence[_Curve], *, logarithmic: bool) -> Chart | None:
    known = [error for _, _, errors, _, _ in curves for error in errors if error]
    steps = [step for _, at, _, _, _ in curves for step in at]
    if not known or len(set(steps)) < 2:
        return None
    x = _Scale(max(min(steps), 1.0) if logarithmic else min(steps), max(steps), _LEFT, _WIDTH - _RIGHT, logarithmic)
    y = _Scale(min(known) / 2, max(known) * 2, _HEIGHT - _BOTTOM, _TOP, True)
    lines = tuple(
        Line(name, 0 if dashed else _colour(name), _path(at, errors, x, y), figure, dashed)
        for name, at, errors, figure, dashed in curves
    )
    return Chart(
        title,
        lines,
        tuple((x.at(tick), f"{tick:,.0f}") for tick in x.ticks()),
        tuple((y.at(tick), f"{tick:.0e}") for tick in y.ticks()),
    )


def _colour(name: str) -> int:
    """A form has the same colour in every chart."""
    form = name.partition(",")[0]
    return 1 + (RUNTIMES.index(form) if form in RUNTIMES else len(RUNTIMES)) % _COLOURS


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


def _path(steps: Sequence[float], errors: Sequence[float | None], x: _Scale, y: _Scale) -> str:
    """An SVG path; it breaks where an error is no number, and rests on the axis where it is zero."""
    parts, pen = [], "M"
    for step, error in zip(steps, errors, strict=True):
        if error is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x.at(step)} {y.at(error)}")
        pen = "L"
    return " ".join(parts)
