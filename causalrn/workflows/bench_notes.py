"""What follows from a benchmark's rows, a sentence each: growth, floor, noise."""

from __future__ import annotations

from collections.abc import Iterator

from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.results import BenchReport
from causalrn.workflows.pages.figures import bytes_text, threads_text

_SHORT_US = 30.0


def notes_of(report: BenchReport) -> Iterator[str]:
    """What the tables do not show."""
    for growth in report.growths():
        batch = f", batch {growth.batch}" if growth.batch > 1 else ""
        yield f"{growth.name}{batch}: {growth.describe()}"
    if any(row.ratio for row in report.measured):
        yield f"ratio: time over that of {report.base}, paired by turn; ~ where the turns do not tell the two apart"
    yield from (floor_text(machine) for machine in report.floors.values())
    for threads, reason in report.no_floor.items():
        more = "more " if threads in report.floors else ""
        yield f"no {more}floors for {threads_text(threads)}: {reason}"
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
        f"floor (roofline; {machine.isa}, {threads_text(machine.threads)}): reading {reading}, "
        f"{machine.exps_per_s / 1e9:,.1f} G exps/s, {machine.products_per_s / 1e9:,.0f} G products/s"
    )
