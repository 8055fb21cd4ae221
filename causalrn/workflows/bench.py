"""Measuring what tokens cost: bundles and checkpoint folders side by side, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.targets import check_runtimes
from causalrn.errors import CausalRNError, InputError
from causalrn.runtimes.bench.entries import Entry, find_entries
from causalrn.runtimes.bench.results import BenchReport, Workload
from causalrn.runtimes.bench.running import Bench, BenchPlan
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.checkpoint_folder import CheckpointFolder, is_checkpoint
from causalrn.workflows.arguments import PathLike, finite_number, listed, text_argument, whole_number
from causalrn.workflows.bench_arguments import MOST_THREADS, Counts, Paths, folder_paths, whole_numbers
from causalrn.workflows.bench_comparison import Earlier
from causalrn.workflows.bench_result import BenchResult

_DEPTHS, _PREFILL = (16, 128, 1024), 512


def bench(
    folders: Paths,
    *,
    depth: Counts = (),
    decode: int = 16,
    prefill: Counts = (),
    batch: Counts = (),
    threads: Counts = (),
    repeats: int = 9,
    turn_ms: float = 60.0,
    runtime: str | Iterable[str] = (),
    provider: str = "cpu",
    against: PathLike | None = None,
    fail_above: float | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """Measure latency against depth, prefill and memory, beside the least that this machine can take.

    A folder that cannot be opened is a row with the reason; the others are measured all the same. Ctrl-C ends the
    measuring: the result holds what was measured, and `report.interrupted`. Processes are started with "spawn": a
    script that calls this needs `if __name__ == "__main__":`.

    Args:
        folders: bundles and checkpoint folders; ratios relate to the first that can be opened.
        depth: numbers of tokens before a decode; by default 16, 128 and 1,024 as far as the longest model has them.
        decode: tokens that are decoded from each depth; 0 for none.
        prefill: numbers of tokens taken at once into a fresh state; 0 for none; by default 512 or the capacity.
        batch: numbers of sequences; by default 1.
        threads: numbers of threads of each candidate; by default 1.
        repeats: turns of each candidate on a workload, 3 to 10,000.
        turn_ms: length of a turn in milliseconds, 1 to 60,000.
        runtime: to choose from; by default all that apply.
        provider: execution provider of onnxruntime.
        against: a file that :meth:`~causalrn.workflows.bench_result.BenchResult.save_json` wrote, to compare with.
        fail_above: with `against`: the result has not passed where a row takes more than so many times as long as
            before.
        progress: is told of every turn.

    Raises:
        InputError: an argument that is wrong, or fits no folder; or `against` is no report of this version.
        ConfigError: `against` is no JSON.
    """
    paths, names = folder_paths(folders), listed(runtime, "runtime")
    check_runtimes(names)
    if fail_above is not None:
        fail_above = finite_number(fail_above, "fail_above", 0.01)
        if against is None:
            raise InputError("`fail_above` needs `against`: there is nothing to compare with")
    workloads = choose_workloads(paths, depth=depth, decode=decode, prefill=prefill, batch=batch)
    plan = BenchPlan(
        workloads, whole_number(repeats, "repeats", 3, 10_000), finite_number(turn_ms, "turn_ms", 1, 60_000) / 1000
    )
    earlier = None if against is None else Earlier.load(as_path(against, "against"))
    entries = find_entries(
        paths, names, whole_numbers(threads, "threads", 1, MOST_THREADS) or (1,), text_argument(provider, "provider")
    )
    settings = {"folders": [str(path) for path in paths], "provider": provider}
    report = run_bench(entries, plan, settings, progress)
    comparisons = () if earlier is None else tuple(earlier.compare(report.measured))
    return BenchResult(report, earlier, comparisons, fail_above)


def run_bench(
    entries: Sequence[Entry], plan: BenchPlan, settings: Mapping[str, Any], progress: Progress = no_progress
) -> BenchReport:
    """Measure candidates of any kind; Ctrl-C ends it, and the report is marked as interrupted.

    Args:
        settings: JSON values that the report keeps beside the plan's.
    """
    asked = {"repeats": plan.repeats, "turn_ms": plan.turn_s * 1000, **settings}
    report = BenchReport(asked, {**describe_environment(), "load_average": psutil.getloadavg()[0]})
    with progress("measuring", len(entries) * plan.repeats * len(plan.workloads)) as advance:
        try:
            Bench(entries, plan, report, advance).run()
        except KeyboardInterrupt:
            report.interrupted = True
    return report


def choose_workloads(
    folders: Sequence[Path], *, depth: Counts = (), decode: int = 16, prefill: Counts = (), batch: Counts = ()
) -> list[Workload]:
    """What to time: as asked for, or what the longest model takes; arguments as :func:`bench`.

    Raises:
        InputError: a wrong number, or nothing is left to time.
    """
    longest, tokens = _longest_capacity(folders), whole_number(decode, "decode", 0)
    fits = [count for count in _DEPTHS if longest is None or count + tokens <= longest]
    depths = whole_numbers(depth, "depth", 0) or fits or [0]
    prefills = whole_numbers(prefill, "prefill", 0) or (min(_PREFILL, longest or _PREFILL),)
    batches = sorted(whole_numbers(batch, "batch", 1) or (1,))
    workloads = []
    for sequences in batches:
        workloads += [Workload("decode", tokens, count, sequences) for count in sorted(depths) if tokens]
    for sequences in batches:  # last: what they leave behind would count as others' memory
        workloads += [Workload("prefill", count, 0, sequences) for count in sorted(prefills) if count]
    if not workloads:
        raise InputError("`decode` 0 and `prefill` 0 leave nothing to measure: ask for one of them")
    return workloads


def _longest_capacity(folders: Sequence[Path]) -> int | None:
    """Of all models; None where one has no bound, or nothing is known of any."""
    found: list[int | None] = []
    for folder in folders:
        try:
            if is_bundle(folder):
                found.append(Manifest.read(folder).state.capacity)
            elif is_checkpoint(folder):
                found.append(CheckpointFolder.open(folder).card.config.capacity)
        except CausalRNError:
            continue  # its row gives the reason
    return None if None in found else max((capacity for capacity in found if capacity is not None), default=None)
