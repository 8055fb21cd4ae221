"""docs/benchmarks.md and its plots, from a record of `record.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.workflows.pages.figures import bytes_text, ratio_text, share_text, time_text

matplotlib.use("agg")
from matplotlib import pyplot

_HERE = Path(__file__).parent


def write_pages(output: Path, record: Mapping[str, Any], reports: Mapping[str, BenchReport]) -> None:
    """Write benchmarks.md, benchmarks_latency.png and benchmarks_memory.png."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(time=time_text, bytes=bytes_text, share=share_text, ratio=ratio_text)
    text = environment.get_template("benchmarks.md.j2").render(
        record=record,
        table=reports["table"],
        latency=list(_pivoted(reports["table"], _cell)),
        shares=list(_pivoted(reports["table"], lambda row: share_text(row.share_of_floor))),
        reasons=list(dict.fromkeys((row.name, row.reason) for row in reports["table"].rows if row.reason)),
        titles=[_short(workload) for workload in _workloads(reports["table"])],
        peaks=_peaks(reports["table"]),
        floor=reports["table"].floors[1],
        linear_state=next(row.state_bytes for row in reports["growth"].measured if row.name == "linear, C"),
        growth=reports["growth"].growths(),
        memory=_memory(reports["growth"]),
        predictions=_predictions(record["predictions"]),
        predicted_names=list(dict.fromkeys(entry["name"] for entry in record["predictions"])),
        scaling=list(_pivoted(reports["scaling"], _cell)),
        scaling_titles=[f"batch {workload.batch}" for workload in _workloads(reports["scaling"])],
        worst=max((max(e["ratio"], 1 / e["ratio"]) for e in record["predictions"]), default=None),
    )
    (output / "benchmarks.md").write_text(text, encoding="utf-8")
    plot_latency(output / "benchmarks_latency.png", reports)
    plot_memory(output / "benchmarks_memory.png", reports["growth"])


def _workloads(report: BenchReport) -> list[Workload]:
    return list(dict.fromkeys(row.workload for row in report.rows))


def _short(workload: Workload) -> str:
    return f"prefill {workload.tokens:,}" if workload.kind == "prefill" else f"t = {workload.depth:,}"


def _cell(row: Row) -> str:
    """A time; with a mark where it is noisy."""
    return time_text(row.time_us.median) + (" ?" if row.time_us.noisy else "")


def _pivoted(report: BenchReport, show: Any) -> Iterator[tuple[str, list[str]]]:
    """A line per candidate, a column per workload."""
    workloads = _workloads(report)
    for name in dict.fromkeys(row.name for row in report.rows):
        by_workload = {row.workload: row for row in report.rows if row.name == name}
        rows = [by_workload.get(workload) for workload in workloads]
        yield name, ["" if row is None else show(row) if row.status == "measured" else row.status for row in rows]


def _peaks(report: BenchReport) -> dict[str, tuple[int | None, int | None]]:
    """State and peak memory at the greatest depth that was measured."""
    found = {}
    for row in report.measured:
        if row.workload.kind == "decode":
            found[row.name] = (row.state_bytes, row.peak_bytes)
    return found


def _memory(report: BenchReport) -> list[dict[str, Any]]:
    """What the process grew by over the state contract's size, where the state is larger than a few pages."""
    rows = sorted((row for row in report.measured if row.memory_ratio is not None), key=lambda row: row.workload.depth)
    return [{"name": row.name, "depth": row.workload.depth, "ratio": row.memory_ratio} for row in rows]


def _predictions(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry["depth"], []).append(entry)
    return found


def plot_latency(path: Path, reports: Mapping[str, BenchReport]) -> None:
    """Time per step against depth: all candidates, and how the four of the growth run fit their lines."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5.2), layout="constrained")
    report = reports["table"]
    names = list(dict.fromkeys(row.name for row in report.measured))
    colours = matplotlib.colormaps["tab20"]
    for number, name in enumerate(names):
        rows = [row for row in report.measured if row.name == name and row.workload.kind == "decode"]
        depths, times = [row.workload.depth for row in rows], [row.time_us.median for row in rows]
        left.plot(depths, times, "o-", color=colours(number % 20), linewidth=1.3, markersize=3.5, label=name)
    for name, style in (("exact, C", "--"), ("linear, C", ":")):
        rows = [row for row in report.measured if row.name == name and row.workload.kind == "decode" and row.floor_us]
        left.plot(
            [r.workload.depth for r in rows],
            [r.floor_us for r in rows],
            style,
            color="black",
            label=f"floor, {name[:-3]}",
        )
    left.set(xscale="log", yscale="log", xlabel="depth", ylabel="microseconds per step", title="All runtimes and peers")
    left.legend(fontsize=7, frameon=False, ncols=1, loc="upper left", bbox_to_anchor=(0, 1))
    growth = reports["growth"]
    for number, line in enumerate(growth.growths()):
        rows = [row for row in growth.measured if row.name == line.name]
        depths = [row.workload.depth for row in rows]
        colour = colours(2 * number)
        right.plot(depths, [row.time_us.median for row in rows], "o", color=colour, markersize=5)
        right.plot(
            line.rows, [line.start_us + line.slope_us * at for at in line.rows], "-", color=colour, label=line.name
        )
    right.set(xlabel="depth", ylabel="microseconds per step", title="Growth: measured (dots), a + b t (lines)")
    right.legend(fontsize=8, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_memory(path: Path, report: BenchReport) -> None:
    """What the state takes against depth, and the contract's formula."""
    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for number, name in enumerate(dict.fromkeys(row.name for row in report.measured)):
        rows = sorted((row for row in report.measured if row.name == name), key=lambda row: row.workload.depth)
        depths = [row.workload.depth for row in rows]
        grown = [row.state_bytes if row.memory_ratio is None else row.resident_bytes for row in rows]
        colour = f"C{number}"
        axis.plot(depths, [(each or 0) / 1e6 for each in grown], "ox+^"[number % 4], color=colour, label=name)
        axis.plot(depths, [(row.formula_bytes or 0) / 1e6 for row in rows], "-", color=colour, linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="depth", ylabel="MB of state")
    axis.set_title("Memory of the state: measured (marks), state contract (lines)", loc="left", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
