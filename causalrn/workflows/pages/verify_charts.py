"""Charts and heat maps of a verification: error by step, along a long run, and between blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causalrn.workflows.pages.svg_chart import COLOURS, Axis, Chart, Curve, draw_chart

Json = Mapping[str, Any]
_Results = Sequence[tuple[int, Json]]

_ERROR = Axis("error, relative to the largest |logit|", "{:.0e}".format)
_STEP = Axis("step", "{:,.0f}".format)
_ALLOWED = "allowed by rounding"
_CALM = 0.7
"""Heat map: the power of error over what is allowed that is the colour's strength: a tenth of the limit has a fifth."""
_FURTHEST = 4.0
"""Powers of ten beyond rounding at which the colour of what a budget judges is strongest."""


@dataclass(frozen=True)
class Heat:
    """A map of the error between blocks, over what rounding allows.

    Attributes:
        index: of the result in the report.
        rows: [N + 1][columns]; None where NaN came out.
        is_budget: whether a budget judges it, so that being beyond rounding is no failure.
        largest: of all; infinite where NaN came out.
    """

    index: int
    runtime: str
    rows: tuple[tuple[float | None, ...], ...]
    is_budget: bool
    largest: float

    @property
    def words(self) -> str:
        """The largest, for people."""
        if math.isinf(self.largest):
            return "NaN or infinity came out"
        return f"at most {self.largest:.2g} of what rounding allows" if self.largest <= 1 else f"up to {self._times}"

    @property
    def _times(self) -> str:
        return f"{self.largest:,.0f} times" if self.largest >= 10 else f"{self.largest:.1f} times"

    def is_over(self, ratio: float | None) -> bool:
        """Whether a cell is out of tolerance."""
        return ratio is None or (ratio > 1 and not self.is_budget)

    def strength(self, ratio: float | None) -> float:
        """Of a cell's colour, 0 to 1."""
        if ratio is None:
            return 1.0
        power = math.log10(max(ratio, 1.0)) / _FURTHEST if self.is_budget else ratio**_CALM
        return round(min(1.0, power), 3)

    @property
    def legend(self) -> list[tuple[float, str]]:
        """Values with their names."""
        if self.is_budget:
            return [(1.0, "1"), (10.0, "10"), (100.0, "100"), (1e3, "1,000"), (1e4, "10,000 times")]
        return [(0.01, "0.01"), (0.1, "0.1"), (0.3, "0.3"), (1.0, "1: all that is allowed")]


def charts_of(report: Json) -> list[Chart]:
    """Error by step and along a long run, where they were measured; a runtime has one colour in both."""
    results = list(enumerate(report["results"]))
    by_step = [(index, result) for index, result in results if "errors" in result["figures"]]
    long_runs = [(index, result) for index, result in results if "curve" in result["figures"]]
    names = dict.fromkeys(result["form"] for _, result in (*by_step, *long_runs))
    colours = {name: number for number, name in enumerate(names)}
    steps, drift = _step_curves(by_step, colours), _drift_curves(long_runs, colours)
    charts = (
        draw_chart("Logits: error at each step", steps, _STEP, _ERROR, logarithmic=False),
        draw_chart("Drift: largest error of each stretch of a long run", drift, _STEP, _ERROR, logarithmic=True),
    )
    return [chart for chart in charts if chart is not None]


def heats_of(report: Json) -> list[Heat]:
    """A map of every runtime that shows what is between blocks."""
    heats = []
    for index, result in enumerate(report["results"]):
        if "heat" in result["figures"]:
            rows = tuple(tuple(row) for row in result["figures"]["heat"])
            largest = max(math.inf if ratio is None else ratio for row in rows for ratio in row)
            heats.append(Heat(index, result["form"], rows, "judged" in result["figures"], largest))
    return heats


def _step_curves(results: _Results, colours: Mapping[str, int]) -> list[Curve]:
    curves: list[Curve] = []
    for index, result in results:
        figures, place = result["figures"], f"results.{index}.figures"
        steps = [float(step) for step in range(len(figures["errors"]))]
        if not curves:
            curves.append(Curve(_ALLOWED, steps, figures["allowed_errors"], f"{place}.allowed_errors", 0, dashed=True))
        number = colours[result["form"]]
        curves.append(_curve(result["form"], number, steps, figures["errors"], f"{place}.errors"))
    return curves


def _drift_curves(results: _Results, colours: Mapping[str, int]) -> list[Curve]:
    curves: list[Curve] = []
    for index, result in results:
        curve, place = result["figures"]["curve"], f"results.{index}.figures.curve"
        steps = [float(step) for step in curve["steps"]]
        if not curves:
            curves.append(Curve(_ALLOWED, steps, curve["allowed"], f"{place}.allowed", 0, dashed=True))
        name = f"{result['form']}, {result['figures']['growth']['name']}"
        curves.append(_curve(name, colours[result["form"]], steps, curve["largest"], f"{place}.largest"))
    return curves


def _curve(name: str, number: int, steps: list[float], values: Sequence[float | None], figure: str) -> Curve:
    """In the colour of its number; beyond the last colour it is dashed."""
    return Curve(name, steps, values, figure, 1 + number % COLOURS, dashed=number // COLOURS % 2 == 1)
