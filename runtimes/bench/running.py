"""Running a benchmark: contestants take turns on one workload after another, each in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from causalrn.errors import CausalRNError, InputError, RuntimeUnavailableError
from causalrn.manifest import Manifest, is_bundle
from causalrn.run_folder import is_run
from causalrn.runtimes.bench.contestants import Contestant, Facts, MemoryUse, open_contestant
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.measuring import Kernels
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.timing import paired_ratio, turns
from causalrn.runtimes.bench.worker import Worker
from causalrn.runtimes.opening import RUN_RUNTIMES, TARGET_RUNTIMES, WITHOUT_THREADS, SessionOptions

Advance = Callable[..., object]
_LEAST_REPEATS = 3
"""Of a workload that is interrupted: with fewer there is no spread to speak of."""


@dataclass(frozen=True)
class Entry:
    """Somebody who takes part.

    Attributes:
        name: in the report.
        runtime: that runs it; empty where that cannot be known.
        threads: it has.
        factory: makes the contestant, in its own process: picklable.
    """

    name: str
    runtime: str
    threads: int
    factory: Callable[[], Contestant]


@dataclass(frozen=True)
class BenchPlan:
    """How a benchmark goes.

    Attributes:
        workloads: one after another.
        repeats: turns of every contestant on a workload.
        turn_s: how long a turn takes, about.
    """

    workloads: Sequence[Workload]
    repeats: int
    turn_s: float


def find_entries(
    paths: Sequence[Path], runtimes: Sequence[str], threads: Sequence[int], provider: str = "cpu"
) -> list[Entry]:
    """Everybody that folders stand for: bundles in their runtimes, RUNs in both of theirs, by number of threads.

    A folder that cannot be opened takes part, too: the report says why it failed.

    Args:
        paths: of RUNs and bundles.
        runtimes: to choose from; empty for all.

    Raises:
        InputError: no runtime of `runtimes` runs one of the folders.
    """
    entries = []
    names = _names_of(paths)
    for path in paths:
        possible = _runtimes_of(path)
        chosen = [name for name in possible if not runtimes or name in runtimes]
        if possible and not chosen:
            raise InputError(f"{path}: --runtime {', '.join(runtimes)} does not run it: {' or '.join(possible)} does")
        for runtime in chosen or [""]:
            for count in threads[:1] if runtime in WITHOUT_THREADS else threads:
                own = 1 if runtime in WITHOUT_THREADS else count
                options = SessionOptions(provider if runtime == "onnxruntime" else "cpu", own)
                factory = partial(open_contestant, path, runtime or None, options)
                words = [names[path], *([runtime] if len(chosen) > 1 else [])]
                words += [f"{own} threads"] if len(threads) > 1 and own > 1 else []
                entries.append(Entry(", ".join(words), runtime, own, factory))
    return entries


def _runtimes_of(path: Path) -> tuple[str, ...]:
    """Runtimes that a folder runs in; none where it cannot be opened."""
    if not is_bundle(path) and is_run(path):
        return RUN_RUNTIMES
    try:
        return (TARGET_RUNTIMES[Manifest.read(path).target],)
    except (CausalRNError, KeyError):
        return ()


def _names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """The last part of a path where that is enough, else all of it."""
    short = [path.name for path in paths]
    return {path: path.name if path.name and short.count(path.name) == 1 else str(path) for path in paths}


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
            KeyboardInterrupt: by the user; the report says so, too.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            try:
                self._open()
                for workload in self._plan.workloads:
                    self._report.rows += self._rows(workload)
                    if self._report.interrupted:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                self._report.interrupted = True
                raise

    def _open(self) -> None:
        for entry in self._entries:
            self._advance(0, f"opening {entry.name}")
            with self._fault_of(entry):
                worker = Worker(entry.factory)
                self._workers[entry.name] = worker
                self._facts[entry.name] = worker.call("get_facts")
                self._report.load_ms[entry.name] = self._facts[entry.name].load_ms
        for threads in sorted({entry.threads for entry in self._entries if entry.name in self._workers}):
            with contextlib.suppress(RuntimeUnavailableError):  # no C compiler, no floor
                self._kernels[threads] = Worker(partial(Kernels, threads))

    def _close(self) -> None:
        for worker in (*self._workers.values(), *self._kernels.values()):
            worker.close()

    @contextlib.contextmanager
    def _fault_of(self, entry: Entry) -> Iterator[None]:
        """What goes wrong inside ends this contestant's part, nobody else's."""
        try:
            yield
        except CausalRNError as error:
            self._faults[entry.name] = str(error)
            self._report.exit_code = self._report.exit_code or error.exit_code
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
        """Why a contestant cannot do that; empty where it can."""
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
        for threads, worker in self._kernels.items():
            sizes = set()
            for entry in able:
                cost = self._facts[entry.name].cost
                if entry.threads == threads and cost is not None:
                    sizes.add(cost.working_set(workload.call))
            if sizes:
                rates: Machine = worker.call("rates", sorted(sizes))
                known = self._report.floors.get(threads)
                self._report.floors[threads] = rates if known is None else known.merged(rates)

    def _row(
        self,
        entry: Entry,
        workload: Workload,
        obstacle: str,
        times: dict[str, list[float]],
        memory: dict[str, MemoryUse],
    ) -> Row:
        facts = self._facts.get(entry.name)
        row = Row(entry.name, entry.runtime, entry.threads, facts.model if facts else "", workload)
        fault = self._faults.get(entry.name)
        if obstacle or fault:
            return replace(row, status="failed" if fault else "skipped", reason=fault or obstacle)
        assert facts is not None
        own, first = times[entry.name], next(name for name in times if name not in self._faults)
        machine, worker = self._report.floors.get(entry.threads), self._workers[entry.name]
        parts = None if machine is None or facts.cost is None else machine.parts_s(facts.cost, workload.call)
        return replace(
            row,
            times_us=tuple(own),
            ratio=None if first == entry.name else paired_ratio(times, entry.name, first),
            floor_us=None if parts is None else parts.floor * 1e6,
            formula_bytes=None if facts.state is None else facts.state.size_bytes(workload.held, workload.batch),
            state_bytes=memory[entry.name].state_bytes,
            resident_bytes=memory[entry.name].resident_bytes,
            peak_bytes=worker.call("peak_bytes") if worker.is_idle else None,
        )
