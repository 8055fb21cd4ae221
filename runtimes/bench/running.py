"""Running a benchmark: candidates take turns on one workload after another, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from causalrn.compiling.code_cache import CACHE_VARIABLE, cache_folder
from causalrn.compiling.processor import usable_processors
from causalrn.errors import CausalRNError
from causalrn.runtimes.bench.candidates import Facts, MemoryUse
from causalrn.runtimes.bench.entries import Entry
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.measuring import LARGEST_READ, Kernels
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.timing import paired_ratio, turns
from causalrn.runtimes.bench.worker import Worker
from causalrn.runtimes.progress import Advance

_LEAST_REPEATS = 3
"""Of a workload that is interrupted: with fewer there is no spread to speak of."""


@dataclass(frozen=True)
class BenchPlan:
    """How a benchmark goes.

    Attributes:
        workloads: one after another.
        repeats: turns of every candidate on a workload.
        turn_s: how long a turn takes, about.
    """

    workloads: Sequence[Workload]
    repeats: int
    turn_s: float


@contextlib.contextmanager
def _one_cache() -> Iterator[None]:
    """Have all processes that start inside keep compiled code in one place, also where the user's cache is unusable."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(cache_folder())
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = before


class Bench:
    """One run.

    Args:
        entries: who takes part; the first one is what ratios relate to.
        plan: on what.
        report: is filled, workload by workload.
        advance: is told of every turn: `advance(count, note)`.
    """

    def __init__(self, entries: Sequence[Entry], plan: BenchPlan, report: BenchReport, advance: Advance) -> None:
        self._entries, self._plan, self._report, self._advance = entries, plan, report, advance
        self._workers: dict[str, Worker] = {}
        self._facts: dict[str, Facts] = {}
        self._faults: dict[str, str] = {}
        self._kernels: dict[int, Worker] = {}

    def run(self) -> None:
        """Measure everything; what has been measured is in the report, whatever happens.

        Raises:
            KeyboardInterrupt: by the user; the report is marked as interrupted, too.
        """
        try:
            with _one_cache():
                self._open()
            for workload in self._plan.workloads:
                self._report.rows += self._rows(workload)
                if self._report.interrupted:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            self._report.interrupted = True
            raise
        finally:
            self._settle_floors()
            self._close()

    def _open(self) -> None:
        for entry in self._entries:
            self._advance(0, f"opening {entry.name}")
            with self._fault_of(entry):
                worker = Worker(entry.factory)
                self._workers[entry.name] = worker
                self._facts[entry.name] = worker.call("get_facts")
                self._report.load_ms[entry.name] = self._facts[entry.name].load_ms
        self._report.base = next((entry.name for entry in self._entries if entry.name in self._workers), "")
        for threads in sorted({entry.threads for entry in self._entries if entry.name in self._workers}):
            if threads > usable_processors():
                self._report.no_floor[threads] = "there are fewer processors"
                continue
            with self._without_floor(threads):
                self._kernels[threads] = Worker(partial(Kernels, threads))

    @contextlib.contextmanager
    def _without_floor(self, threads: int) -> Iterator[None]:
        """What goes wrong inside costs the floor, nothing else."""
        try:
            yield
        except CausalRNError as error:
            self._report.no_floor[threads] = str(error)
            worker = self._kernels.pop(threads, None)
            if worker is not None:
                worker.close()

    def _close(self) -> None:
        for worker in (*self._workers.values(), *self._kernels.values()):
            worker.close()

    @contextlib.contextmanager
    def _fault_of(self, entry: Entry) -> Iterator[None]:
        """What goes wrong inside ends this candidate's part, nobody else's."""
        try:
            yield
        except CausalRNError as error:
            self._faults[entry.name] = str(error)
            self._report.fault = self._report.fault or error
            worker = self._workers.pop(entry.name, None)
            if worker is not None:
                worker.close()

    def _rows(self, workload: Workload) -> list[Row]:
        """Everybody's row of one workload; of an interrupted one only if there were repeats enough."""
        obstacles = {entry.name: self._obstacle(entry, workload) for entry in self._entries}
        able = [entry for entry in self._entries if not obstacles[entry.name]]
        memory: dict[str, MemoryUse] = {}
        times: dict[str, list[float]] = {entry.name: [] for entry in able}
        try:
            for entry in able:
                self._advance(0, f"{workload.title}: {entry.name}")
                with self._fault_of(entry):
                    memory[entry.name] = self._prepare(entry, workload)
            self._take_turns(able, workload, times)
        except KeyboardInterrupt:
            self._report.interrupted = True
            least = min((len(each) for name, each in times.items() if name not in self._faults), default=0)
            if least < _LEAST_REPEATS:
                return []
            times = {name: each[:least] for name, each in times.items()}
        self._advance((len(self._entries) - len(able)) * self._plan.repeats)
        return [self._row(entry, workload, obstacles[entry.name], times, memory) for entry in self._entries]

    def _obstacle(self, entry: Entry, workload: Workload) -> str:
        """Why a candidate cannot do that; empty where it can."""
        if entry.name not in self._workers:
            return self._faults[entry.name]
        facts = self._facts[entry.name]
        if facts.capacity is not None and workload.depth + workload.tokens > facts.capacity:
            return f"beyond its capacity of {facts.capacity:,}"
        if facts.max_batch is not None and workload.batch > facts.max_batch:
            return f"takes {facts.max_batch} sequence{'s' * (facts.max_batch > 1)} at most"
        return ""

    def _prepare(self, entry: Entry, workload: Workload) -> MemoryUse:
        """Warm up, and measure memory on the way."""
        worker = self._workers[entry.name]
        memory: MemoryUse = worker.call("measure_memory", workload.held, workload.batch)
        worker.call("forget_peak")
        self._turn(entry, workload, 0.0)
        return memory

    def _take_turns(self, able: Sequence[Entry], workload: Workload, times: dict[str, list[float]]) -> None:
        by_name = {entry.name: entry for entry in able}
        for turn, name in enumerate(turns(list(by_name), self._plan.repeats)):
            if able and turn % len(able) == 0:
                self._measure_floor(able, workload)
            entry = by_name[name]
            if name not in self._faults:
                with self._fault_of(entry):
                    times[name].append(self._turn(entry, workload, self._plan.turn_s))
            self._advance(1, workload.title)

    def _turn(self, entry: Entry, workload: Workload, turn_s: float) -> float:
        worker, batch, tokens = self._workers[entry.name], workload.batch, workload.tokens
        if workload.kind == "prefill":
            time_us: float = worker.call("prefill_us", batch, tokens, turn_s)
        else:
            time_us = worker.call("decode_us", workload.depth, batch, tokens, turn_s)
        return time_us

    def _measure_floor(self, able: Sequence[Entry], workload: Workload) -> None:
        """Take a turn of the kernels, too, at the sizes that matter: the report keeps the best of each rate."""
        for threads, worker in list(self._kernels.items()):
            own = [entry.name for entry in able if entry.threads == threads and entry.name not in self._faults]
            costs = [cost for name in own if (cost := self._facts[name].cost) is not None]
            sizes = {min(cost.working_set(workload.call), LARGEST_READ) for cost in costs}
            if sizes:
                with self._without_floor(threads):
                    rates: Machine = worker.call("rates", sorted(sizes))
                    known = self._report.floors.get(threads)
                    self._report.floors[threads] = rates if known is None else known.merged(rates)

    def _settle_floors(self) -> None:
        """Give every row its floor, by the best rates of the whole run."""
        settled = []
        for row in self._report.rows:
            machine, facts = self._report.floors.get(row.threads), self._facts.get(row.name)
            cost = None if facts is None else facts.cost
            if row.status == "measured" and machine is not None and cost is not None:
                read = min(cost.working_set(row.workload.call), LARGEST_READ)
                if read in dict(machine.bytes_per_s):  # else the kernels ended before they came to this size
                    row = replace(row, floor_us=machine.parts_s(cost, row.workload.call).floor * 1e6)
            settled.append(row)
        self._report.rows[:] = settled

    def _row(
        self,
        entry: Entry,
        workload: Workload,
        obstacle: str,
        times: dict[str, list[float]],
        memory: dict[str, MemoryUse],
    ) -> Row:
        facts, peak = self._facts.get(entry.name), None
        if not obstacle and entry.name not in self._faults and self._workers[entry.name].is_idle:
            with self._fault_of(entry):
                peak = self._workers[entry.name].call("peak_bytes")
        row = Row(entry.name, entry.runtime, entry.threads, facts.model if facts else "", workload)
        fault = self._faults.get(entry.name)
        if obstacle or fault:
            return replace(row, status="failed" if fault else "skipped", reason=fault or obstacle)
        assert facts is not None
        own, base = times[entry.name], self._report.base
        compared = base not in (entry.name, *self._faults) and len(times.get(base, ())) == len(own)
        return replace(
            row,
            times_us=tuple(own),
            ratio=paired_ratio(times, entry.name, base) if compared else None,
            formula_bytes=None if facts.state is None else facts.state.size_bytes(workload.held, workload.batch),
            state_bytes=memory[entry.name].state_bytes,
            resident_bytes=memory[entry.name].resident_bytes,
            peak_bytes=peak,
        )
