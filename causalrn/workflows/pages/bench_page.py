"""A benchmark as one self-contained page: latency and memory against depth, and every row.

Every number on it comes from the report's JSON, which the page carries; cells name their place in it (`data-figure`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from causalrn.runtimes.bench.report_file import report_json
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.workflows.bench_comparison import Comparison, comparison_json
from causalrn.workflows.bench_notes import headline, notes_of
from causalrn.workflows.pages.figures import bytes_text, rate_text, ratio_text, share_text, time_text
from causalrn.workflows.pages.page import embedded_json, page_environment
from causalrn.workflows.pages.svg_chart import COLOURS, Axis, Chart, Curve, draw_chart

_NEAREST_TICKS = 1.8
_ZEROS = re.compile(r"\.0+(?= )")
_UNITS = {"turn_ms": ("turn", "{} ms"), "cpu_count": ("processors", "{}"), "load_average": ("load before", "{}")}


def render_page(report: BenchReport, comparisons: Sequence[Comparison] = ()) -> str:
    """The page of a report, as HTML."""
    environment = page_environment()
    environment.filters.update(time=time_text, bytes=bytes_text, rate=rate_text, ratio=ratio_text, share=share_text)
    workloads = dict.fromkeys(row.workload for row in report.rows)
    indexed = list(enumerate(report.rows))
    return environment.get_template("bench_page.html.j2").render(
        report=report,
        data=embedded_json({**report_json(report), "comparisons": [comparison_json(each) for each in comparisons]}),
        comparisons=comparisons,
        groups=[(work.title, [(i, row) for i, row in indexed if row.workload == work]) for work in workloads],
        charts=[chart for chart in charts_of(report) if chart is not None],
        notes=list(notes_of(report)),
        headline=headline(report),
        models=[(name, model) for model, name in _names_by_model(report).items()],
        settings=list(_settings(report)),
        reasons=dict.fromkeys((row.name, row.reason) for row in report.rows if row.reason),
    )


def charts_of(report: BenchReport) -> list[Chart | None]:
    """Latency and memory against depth, of each batch size."""
    charts: list[Chart | None] = []
    for batch in dict.fromkeys(row.workload.batch for row in report.rows):
        rows = [
            (index, row)
            for index, row in enumerate(report.rows)
            if row.status == "measured" and row.workload.kind == "decode" and row.workload.batch == batch
        ]
        sequences = f", {batch} sequences" if batch > 1 else ""
        latency = [*_curves(rows, "time_us.median", lambda row: row.time_us.median), *_floors(rows)]
        memory = [*_curves(rows, "resident_bytes", lambda row: row.resident_bytes or None), *_formulas(rows)]
        peak = _curves(rows, "peak_bytes", lambda row: row.peak_bytes)
        depth = Axis("tokens before", "{:,.0f}".format, _spaced(sorted({row.workload.depth for _, row in rows})))
        for title, curves, axis in (
            ("Time per step", latency, Axis("time of a step", _short(time_text))),
            (
                "State: growth of the process (dots), and by the contract (dashed)",
                memory,
                Axis("memory", _short(bytes_text)),
            ),
            ("Peak memory of the process", peak, Axis("memory", _short(bytes_text))),
        ):
            charts.append(draw_chart(title + sequences, curves, depth, axis, logarithmic=True))
    return charts


def _short(text: Callable[[float], str]) -> Callable[[float], str]:
    """Round numbers without the digits that measured ones have: "10 us" instead of "10.0 us"."""
    return lambda value: _ZEROS.sub("", text(value))


def _spaced(depths: Sequence[int]) -> list[float]:
    """Those of the depths that can be read beside each other."""
    kept: list[float] = []
    for depth in reversed(depths):
        if not kept or depth * _NEAREST_TICKS <= kept[-1]:
            kept.append(depth)
    return kept[::-1]


def _names_by_model(report: BenchReport) -> dict[str, str]:
    """Who runs a model, once for each model."""
    names: dict[str, dict[str, None]] = {}
    for row in report.rows:
        if row.model:
            names.setdefault(row.model, {})[row.name] = None
    return {model: ", ".join(own) for model, own in names.items()}


def _settings(report: BenchReport) -> Iterator[tuple[str, str]]:
    """Settings, machine and versions, by name."""
    packages = report.environment.get("packages", {})
    for name, value in (*report.settings.items(), *report.environment.items(), *packages.items()):
        if isinstance(value, Mapping) or value in (None, ""):
            continue
        words, unit = _UNITS.get(name, (name.replace("_", " "), "{}"))
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        yield words, unit.format(f"{shown:.3g}" if isinstance(shown, float) else shown)


_Rows = Sequence[tuple[int, Row]]


def _curves(rows: _Rows, figure: str, value: Callable[[Row], float | None]) -> list[Curve]:
    """One per candidate, in the colours of their order; beyond the last colour they are dashed."""
    curves = []
    for number, name in enumerate(dict.fromkeys(row.name for _, row in rows)):
        own = [(index, row) for index, row in rows if row.name == name]
        places = f"rows.{','.join(str(index) for index, _ in own)}.{figure}"
        depths, values = [float(row.workload.depth) for _, row in own], [value(row) for _, row in own]
        dashed = number // COLOURS % 2 == 1
        if any(each is not None for each in values):
            curves.append(Curve(name, depths, values, places, 1 + number % COLOURS, dashed, dots=True))
    return curves


def _floors(rows: _Rows) -> list[Curve]:
    """The floor of each kind of model, once, in the colour of the first candidate that has it."""
    return _reference(rows, "floor", "floor_us", lambda row: row.floor_us)


def _formulas(rows: _Rows) -> list[Curve]:
    """The state contract's size, likewise."""
    return _reference(rows, "contract", "formula_bytes", lambda row: row.formula_bytes)


def _reference(rows: _Rows, title: str, figure: str, value: Callable[[Row], float | None]) -> list[Curve]:
    curves: dict[tuple[Any, ...], Curve] = {}
    for number, name in enumerate(dict.fromkeys(row.name for _, row in rows)):
        own = [(index, row) for index, row in rows if row.name == name and value(row) is not None]
        if own:
            values, depths = tuple(value(row) for _, row in own), [float(row.workload.depth) for _, row in own]
            places = f"rows.{','.join(str(index) for index, _ in own)}.{figure}"
            first = Curve(f"{title}: {name}", depths, values, places, 1 + number % COLOURS, dashed=True)
            same = curves.get(values)
            curves[values] = first if same is None else replace(same, name=f"{same.name}, {name}")
    return list(curves.values())
