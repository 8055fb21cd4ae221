"""What follows from a benchmark's rows, a sentence each: growth, floor, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.runtimes.bench.timing import Spread
from causalrn.workflows.pages.figures import bytes_text, counted, time_text

_SHORT_US = 30.0
_MOST_NAMED = 3


def headline(report: BenchReport) -> str:
    """The outcome in a sentence: who is fastest where few tokens stand before, by how much, and who stays flat.

    Empty where nothing was decoded.
    """
    decoded = [row for row in report.measured if row.workload.kind == "decode"]
    if not decoded:
        return ""
    first = min((row.workload for row in decoded), key=lambda work: (work.batch, work.depth))
    rows = sorted((row for row in decoded if row.workload == first), key=lambda row: row.time_us.median)
    best, others = rows[0], rows[1:]
    batch = f" of {first.batch} sequences" if first.batch > 1 else ""
    words = f"After {counted(first.depth, 'token')} a step{batch} takes {time_text(best.time_us.median)} in {best.name}"
    if others:
        shown = [_how_much_faster(best, row) for row in others[:_MOST_NAMED]]
        rest = [f"faster than {len(others) - _MOST_NAMED} others"] * (len(others) > _MOST_NAMED)
        words += f", {_listed([*shown, *rest])}"
    growths = [growth for growth in report.growths() if growth.batch == first.batch]
    for kind, verb in (("flat", "stays flat"), ("grows", "grows with the tokens before")):
        names = list(dict.fromkeys(growth.name for growth in growths if growth.kind == kind))
        if 0 < len(names) <= _MOST_NAMED:
            words += f"; {_listed(names)} {verb if len(names) == 1 else verb.replace('s ', ' ', 1)}"
    return words + "."


def _how_much_faster(best: Row, other: Row) -> str:
    """Paired by turn, where both have the same turns."""
    if len(best.times_us) != len(other.times_us):
        return f"{other.time_us.median / best.time_us.median:.1f} times faster than {other.name}"
    ratio = Spread.of([theirs / own for theirs, own in zip(other.times_us, best.times_us, strict=True)])
    if ratio.low <= 1 <= ratio.high:
        return f"as fast as {other.name}, within noise"
    return f"{ratio.median:.1f} times faster than {other.name}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def notes_of(report: BenchReport) -> Iterator[str]:
    """What the tables do not show."""
    for growth in report.growths():
        batch = f", batch {growth.batch}" if growth.batch > 1 else ""
        yield f"{growth.name}{batch}: {growth.describe()}"
    if any(row.resident_bytes == 0 for row in report.measured):
        yield "a process grows by whole pages of memory, or not at all where the state fits into those it has"
    if any(row.ratio for row in report.measured):
        yield f"ratio: time over that of {report.base}, paired by turn; ~ where the turns do not tell the two apart"
    yield from (floor_text(machine) for machine in report.floors.values())
    for threads, reason in report.no_floor.items():
        more = "more " if threads in report.floors else ""
        yield f"no {more}floors for {counted(threads, 'thread')}: {reason}"
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
    return (
        f"floor (roofline; {machine.isa}, {counted(machine.threads, 'thread')}): reading {reading}, "
        f"{machine.exps_per_s / 1e9:,.1f} G exps/s, {machine.products_per_s / 1e9:,.0f} G products/s"
    )
