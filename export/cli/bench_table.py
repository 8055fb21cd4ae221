"""A benchmark on the terminal: a table per workload, made for 80 columns, and what follows from the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from causalrn.export.cli.console import console
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.runtimes.bench.timing import Spread

Earlier = Mapping[tuple[Any, ...], Row]


def print_report(report: BenchReport, before: Earlier | None = None) -> None:
    """Print all tables and notes; `before` are rows of an earlier report to compare with."""
    out = console()
    for workload in dict.fromkeys(row.workload for row in report.rows):
        out.print(Text(workload.title, "bold"))
        out.print(_table(row for row in report.rows if row.workload == workload))
        out.print()
    if before is not None:
        out.print(comparison_table(report.measured, before))
        out.print()
    for name, reason in dict.fromkeys((row.name, row.reason) for row in report.rows if row.reason):
        out.print(Text.assemble((f"{name}: ", "yellow"), reason), soft_wrap=True)
    for line in notes_of(report):
        out.print(line, soft_wrap=True)


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for name in ("time", "+-", "tokens/s", "ratio", "of floor", "state", "peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row.status != "measured":
            table.add_row(row.name, Text(row.status, "yellow"))
            continue
        time = row.time_us
        spread = Text(f"{time.half_width / time.median:.0%}", "yellow" if time.noisy else "")
        figures = (rate_text(row.tokens_per_s), ratio_text(row.ratio), share_text(row.share_of_floor))
        sizes = (bytes_text(row.state_bytes), bytes_text(row.peak_bytes))
        table.add_row(row.name, time_text(time.median), spread, *figures, *sizes)
    return table


def comparison_table(rows: Iterable[Row], before: Earlier) -> Table:
    """Each row's time over that of the same row in an earlier report; and with both machines' floors taken out."""
    table = Table(title="now / before", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for name in ("", "workload"):
        table.add_column(name)
    for name in ("before", "now", "ratio", "against floor"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        earlier = before.get(row.key)
        if earlier is None:
            table.add_row(row.name, row.workload.title, "-", time_text(row.time_us.median), "new", "")
            continue
        ratio, corrected = compare(row, earlier)
        shown = "" if corrected is None else f"{corrected:.2f}"
        times = (time_text(each.time_us.median) for each in (earlier, row))
        table.add_row(row.name, row.workload.title, *times, f"{ratio:.2f}", shown)
    return table


def compare(row: Row, earlier: Row) -> tuple[float, float | None]:
    """Time over earlier time, and the same with each as a multiple of its own run's floor, where both are known."""
    ratio = row.time_us.median / earlier.time_us.median
    if row.floor_us is None or earlier.floor_us is None:
        return ratio, None
    return ratio, ratio * earlier.floor_us / row.floor_us


def notes_of(report: BenchReport) -> Iterator[str]:
    """What the tables do not say, a sentence each."""
    for growth in report.growths():
        batch = f", batch {growth.batch}" if growth.batch > 1 else ""
        yield f"{growth.name}{batch}: {growth.describe()}"
    first = next((row.name for row in report.measured), None)
    if len(report.measured) > 1 and any(row.ratio for row in report.measured):
        yield f"ratio: time over that of {first}, paired by turn; ~ where the turns do not tell the two apart"
    yield from (floor_text(machine) for machine in report.floors.values())
    if report.measured and not report.floors:
        yield "no floor: it is measured by kernels in C; install gcc or clang"
    if report.noisy:
        count = f"{len(report.noisy)} of {len(report.measured)}"
        yield (
            f"too noisy to tell: in {count} rows the quartiles lie more than 10 % apart (+- over 5 %): "
            "run on a quiet machine, or with more --repeats"
        )
    if report.interrupted:
        yield f"interrupted: {len(report.measured)} rows were measured before"


def floor_text(machine: Machine) -> str:
    """What the floor rests on, in words."""
    sizes = [machine.bytes_per_s[0], machine.bytes_per_s[-1]]
    reading = " and ".join(f"{bytes_text(size)} at {rate / 1e9:,.0f} GB/s" for size, rate in dict(sizes).items())
    threads = f"{machine.threads} thread{'s' * (machine.threads > 1)}"
    return (
        f"floor ({machine.isa}, {threads}): reading {reading}, {machine.exps_per_s / 1e9:,.1f} G exps/s, "
        f"{machine.products_per_s / 1e9:,.0f} G products/s"
    )


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


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
