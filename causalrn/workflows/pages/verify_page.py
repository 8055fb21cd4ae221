"""A verification as one self-contained page: no script, no request, light and dark, readable on a phone.

Every number on it comes from the report's JSON, which the page carries; cells name their place in it (`data-figure`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.targets import runtime_names
from causalrn.runtimes.parity.results import ALL_LEVELS
from causalrn.workflows.pages.page import embedded_json, page_environment
from causalrn.workflows.pages.svg_chart import COLOURS, Chart, Curve, draw_chart

_COLDEST = -3.0
"""Heat map: a thousandth of what is allowed, and less, has no colour."""


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a report in its JSON form, as HTML."""
    environment = page_environment()
    environment.filters["figure"] = _figure
    environment.filters["heat"] = _heat
    environment.filters["setting"] = _setting
    indexed = list(enumerate(report["results"]))
    rows = [
        (f"{kind}.{index}", result) for kind in ("results", "measured") for index, result in enumerate(report[kind])
    ]
    rows.sort(key=lambda row: ALL_LEVELS.index(row[1]["level"]))
    walked = [row for row in rows if "calls" in row[1]["figures"]]
    return environment.get_template("verify_page.html.j2").render(
        report=report,
        known_by=KnownBy(**report["known_by"]).describe() if report.get("known_by") else None,
        data=embedded_json(report),
        charts=[chart for chart in (_steps_chart(indexed), _drift_chart(indexed)) if chart is not None],
        heats=[(index, result) for index, result in indexed if "heat" in result["figures"]],
        rows=rows,
        budgets=[row for row in rows if "judged" in row[1]["figures"]],
        walks=[row for row in walked if row[1]["figures"]["calls"]["failing"] is not None],
        walked=walked,
        looked=[row for row in rows if "checks" in row[1]["figures"]],
        guarded=[row for row in rows if "guards" in row[1]["figures"]],
        accuracies=[row for row in rows if "after" in row[1]["figures"]],
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


def _steps_chart(results: Sequence[tuple[int, Mapping[str, Any]]]) -> Chart | None:
    curves: list[Curve] = []
    for index, result in results:
        if "errors" in result["figures"]:
            errors, place = result["figures"]["errors"], f"results.{index}.figures"
            steps = [float(step) for step in range(len(errors))]
            if not curves:
                allowed = result["figures"]["allowed_errors"]
                curves.append(Curve("allowed", steps, allowed, f"{place}.allowed_errors", 0, dashed=True))
            form = result["form"]
            curves.append(Curve(form, steps, errors, f"{place}.errors", _colour(form)))
    return _chart("Logits: error at each step", curves, logarithmic=False)


def _drift_chart(results: Sequence[tuple[int, Mapping[str, Any]]]) -> Chart | None:
    curves: list[Curve] = []
    for index, result in results:
        if result["level"] == "drift":
            curve, place = result["figures"]["curve"], f"results.{index}.figures.curve"
            steps = [float(step) for step in curve["steps"]]
            if not curves:
                curves.append(Curve("allowed", steps, curve["allowed"], f"{place}.allowed", 0, dashed=True))
            name = f"{result['form']}, {result['figures']['growth']['name']}"
            curves.append(Curve(name, steps, curve["largest"], f"{place}.largest", _colour(name)))
    return _chart("Drift: largest error of each stretch of a long run", curves, logarithmic=True)


def _chart(title: str, curves: Sequence[Curve], *, logarithmic: bool) -> Chart | None:
    return draw_chart(title, "over the step number", curves, logarithmic=logarithmic, label="{:.0e}".format)


def _colour(name: str) -> int:
    """A runtime has the same colour in every chart."""
    runtime, known = name.partition(",")[0], runtime_names()
    return 1 + (known.index(runtime) if runtime in known else len(known)) % COLOURS
