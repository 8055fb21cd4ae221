"""A benchmark on the terminal: a table per workload, made for 80 columns, and ratios to an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from causalrn.cli.console import console
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.workflows.bench_comparison import Comparison, Earlier
from causalrn.workflows.bench_notes import headline, notes_of
from causalrn.workflows.pages.figures import bytes_text, rate_text, ratio_text, share_text, time_text

_NARROW, _NAME_WIDTH = 72, 26


def print_report(report: BenchReport) -> None:
    """Print the outcome in a sentence, all tables and notes."""
    if all(row.status == "failed" for row in report.rows):
        return  # standard error says why, a line each
    out = console()
    if words := headline(report):
        out.print(words + "\n")
    for workload in dict.fromkeys(row.workload for row in report.rows):
        rows = [row for row in report.rows if row.workload == workload]
        if all(row.status != "measured" for row in rows):
            out.print(f"{workload.title}: not measured")
            continue
        out.print(Text(workload.title, "bold"))
        out.print(_table(rows, narrow=out.width < _NARROW))
        out.print()
    for name, reason in dict.fromkeys((row.name, row.reason) for row in report.rows if row.reason):
        out.print(Text.assemble((f"{name}: ", "yellow"), reason.removeprefix(f"{name}: ")))
    for line in notes_of(report):
        out.print(line)


def _table(rows: Sequence[Row], *, narrow: bool) -> Table:
    """Narrow terminals get the times and leave the rest to files."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", no_wrap=True)
    names = ("time", "+-", "ratio") if narrow else ("time", "+-", "tokens/s", "ratio", "of floor", "state", "peak")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        name = short_name(row.name, _NAME_WIDTH)
        if row.status != "measured":
            table.add_row(name, Text(row.status, "yellow"))
            continue
        time = row.time_us
        spread = Text(f"{time.half_width / time.median:.0%}", "yellow" if time.noisy else "")
        cells: dict[str, str | Text] = {
            "time": time_text(time.median),
            "+-": spread,
            "tokens/s": rate_text(row.tokens_per_s),
            "ratio": ratio_text(row.ratio),
            "of floor": share_text(row.share_of_floor),
            "state": bytes_text(row.state_bytes),
            "peak": bytes_text(row.peak_bytes),
        }
        table.add_row(name, *(cells[name] for name in names))
    return table


def short_name(name: str, most: int) -> str:
    """A name with its middle left out where it is long: what sets names apart often stands at the end."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    if len(name) <= most:
        return name
    head = most // 3
    return f"{name[:head]}..{name[-(most - head - 2) :]}"


def print_comparisons(before: Earlier, comparisons: Sequence[Comparison], environment: Mapping[str, Any]) -> None:
    """Print a table of ratios, and what the two runs do not share."""
    out = console()
    title = f"now / before ({before.path})"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("workload", overflow="fold")
    for name in ("before", "now", "ratio", "floor out"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in comparisons:
        times = (time_text(row.time_us.median) for row in (each.earlier, each.row))
        mark = "~" if each.noisy else ""
        floor = "" if each.floor_ratio is None else f"{each.floor_ratio:.2f}"
        table.add_row(each.row.name, each.row.workload.title, *times, f"{mark}{each.ratio:.2f}", floor)
    out.print(table if comparisons else f"nothing here was measured in {before.path}, too: names and workloads differ")
    if comparisons:
        out.print("floor out: with each time as a multiple of its run's floor; ~ where one of them is noisy")
    gone = before.missing(comparisons)
    if gone:
        names = ", ".join(dict.fromkeys(row.name for row in gone))
        out.print(f"only measured before: {len(gone)} rows of {names}")
    for name in before.changes(environment):
        out.print(f"not the same {name} as before", style="yellow")
    out.print()
