"""The sum over pairs in C and in PyTorch tiles: processor time, threads, and a whole training step. Run it:

    python benchmarks/pair_sum.py [--repeats N] [--json FILE]

It needs `pip install 'causalrn[export]'`, a C compiler and about three minutes. Kernels take turns; every ratio is
paired within its turn. It shows, in float32 with random inputs:

- forward and backward pass on one thread, as processor time, at three sizes;
- the same in C on two threads against one, as time on the clock: idle cores are needed for that;
- a training step of the presets tiny (copying 16 letters) and paper (64 letters, batch 32), one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from interleaved import Spread, measure, paired_ratio
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.model.operators.c_library import using_threads
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import KERNELS
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import show_progress
from causalrn.training.loop import PRESETS, Trainer, TrainingSettings
from causalrn.training.tasks import CopyTask

SIZES = {"[8, 258, 192]": (8, 258, 192), "[64, 34, 64]": (64, 34, 64), "[32, 130, 192]": (32, 130, 192)}
STEPS = {"tiny, 16 letters, batch 64": ("tiny", 16, 64), "paper, 64 letters, batch 32": ("paper", 64, 32)}
_EXACT = PairFunction("exp", "layer")


def make_pass(name: str, size: tuple[int, int, int]) -> Callable[[], object]:
    """Forward and backward pass of one kernel."""
    batch, steps, hidden = size
    generator = torch.Generator().manual_seed(0)
    q, k, gradient = (torch.randn(batch, steps, 1, hidden, generator=generator) for _ in range(3))
    kernel = KERNELS[name]

    def run() -> None:
        kernel.sum_pairs(q, k, _EXACT)
        kernel.differentiate_pairs(q, k, gradient, _EXACT)

    return run


def make_step(kernel: str, preset: str, length: int, batch: int) -> Callable[[], object]:
    """A training step."""
    size, task = PRESETS[preset], CopyTask(length)
    settings = TrainingSettings(10_000, batch, size.learning_rate, kernel=kernel)
    return Trainer(SequenceModel(size.model(task)), task, settings).step


def timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Milliseconds."""
    start = clock()
    run()
    return 1e3 * (clock() - start)


def compare(
    runs: dict[str, Callable[[], object]], clock: Callable[[], float], options: argparse.Namespace, advance
) -> dict:
    """Times of two runs that take turns, and the ratio of the first to the second."""
    for run in runs.values():
        run()
    times = measure({name: partial(timed, run, clock) for name, run in runs.items()}, options.repeats, advance)
    first, second = runs
    spreads = {name: asdict(Spread.of(values)) for name, values in times.items()}
    return {"ms": spreads, "ratio": asdict(paired_ratio(times, first, second))}


def on_threads(count: int, run: Callable[[], object]) -> Callable[[], object]:
    def threaded() -> None:
        with using_threads(count):
            run()

    return threaded


def compare_all(options: argparse.Namespace, advance) -> dict[str, dict]:
    rows = {}
    for name, size in SIZES.items():
        passes = {kernel: make_pass(kernel, size) for kernel in ("c", "tiles")}
        rows[f"{name}, one thread"] = compare(passes, time.process_time, options, advance)
    for name, size in SIZES.items():
        run = make_pass("c", size)
        threads = {f"{count} threads": on_threads(count, run) for count in (2, 1)}
        rows[f"{name}, C, two threads"] = compare(threads, time.perf_counter, options, advance)
    for name, arguments in STEPS.items():
        steps = {kernel: make_step(kernel, *arguments) for kernel in ("c", "tiles")}
        rows[f"step: {name}"] = compare(steps, time.process_time, options, advance)
    return rows


def print_report(rows: dict[str, dict]) -> None:
    table = Table("[B, T, H]", "ms", "against", "ms", "ratio", "quartiles")
    for name, row in rows.items():
        (first, one), (second, other) = row["ms"].items()
        ratio = row["ratio"]
        quartiles = f"{ratio['low']:.3f} .. {ratio['high']:.3f}"
        values = (f"{one['median']:.1f} {first}", second, f"{other['median']:.1f}", f"{ratio['median']:.3f}", quartiles)
        table.add_row(name, *values)
    Console(highlight=False, width=100).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="how often they take turns (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats: medians and quartiles need at least 3")
    torch.set_num_threads(1)
    with show_progress("pair_sum", 2 * options.repeats * (2 * len(SIZES) + len(STEPS))) as advance:
        rows = compare_all(options, advance)
    print_report(rows)
    report = {"benchmark": "pair_sum", "torch": torch.__version__, "environment": describe_environment(), "rows": rows}
    write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
