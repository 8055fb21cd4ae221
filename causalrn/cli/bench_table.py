"""A benchmark on the terminal: a table per workload, made for 80 columns, and what follows from the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from causalrn.cli.console import console
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.runtimes.bench.timing import Spread

_NARROW, _NAME_WIDTH, _SHORT_US = 72, 26, 30.0


def print_report(report: BenchReport) -> None:
    """Print all tables and notes."""
    out = console()
    for workload in dict.fromkeys(row.workload for row in report.rows):
        rows = [row for row in report.rows if row.workload == workload]
        if all(row.status != "measured" for row in rows):
            out.print(f"{workload.title}: not measured")
            continue
        out.print(Text(workload.title, "bold"))
        out.print(_table(rows, narrow=out.width < _NARROW))
        out.print()
    for name, reason in dict.fromkeys((row.name, row.reason) for row in report.rows if row.reason):
        out.print(Text.assemble((f"{name}: ", "yellow"), reason), soft_wrap=True)
    for line in notes_of(report):
        out.print(line, soft_wrap=True)


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


def notes_of(report: BenchReport) -> Iterator[str]:
    """What the tables do not say, a sentence each."""
    for growth in report.growths():
        batch = f", batch {growth.batch}" if growth.batch > 1 else ""
        yield f"{growth.name}{batch}: {growth.describe()}"
    if any(row.ratio for row in report.measured):
        yield f"ratio: time over that of {report.base}, paired by turn; ~ where the turns do not tell the two apart"
    yield from (floor_text(machine) for machine in report.floors.values())
    for threads, reason in report.no_floor.items():
        more = "more " if threads in report.floors else ""
        yield f"no {more}floors for {threads} thread{'s' * (threads > 1)}: {reason}"
    if any(row.runtime == "native" and row.time_us.median < _SHORT_US for row in report.measured):
        yield "C is called through Python here, which takes a few microseconds of every step: embedded it is faster"
    load, cores = report.environment.get("load_average"), report.environment.get("cpu_count")
    if load is not None and cores is not None and load > cores / 2:
        yield f"the machine was busy when this began: a load of {load:.1f} on {cores} cores"
    if report.noisy:
        count = f"{len(report.noisy)} of {len(report.measured)}"
        yield f"too noisy to tell: {count} rows, their quartiles over 10 % apart (+- over 5 %): use a quiet machine"
    if report.interrupted:
        yield f"interrupted: {len(report.measured)} rows were measured before that"


def floor_text(machine: Machine) -> str:
    """What the floor rests on, in words."""
    ends = dict([machine.bytes_per_s[0], machine.bytes_per_s[-1]])  # the smallest and the largest working set
    reading = ", ".join(f"{bytes_text(size)} at {rate / 1e9:,.0f} GB/s" for size, rate in ends.items())
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
