"""What training costs in memory and time, beside the definition that holds [B, T, T, H]. Run it, from anywhere:

    python benchmarks/training_memory.py [--json FILE] [--repeats N] [--skip-tiles]

It needs `pip install 'causalrn[export]'`, Linux (it reads /proc) and about three minutes; the definition takes some
4 GB of memory. It shows, for the exact readout on one thread:

- the resident memory that one training step of the paper's size adds (B = 32, T = 130, E = H = 192, 12 blocks);
- the readout's forward and backward pass at B = 8, T = 258, H = 192 against its definition
  (`causalrn.model.readouts.naive`): memory and time;
- the time of `pair_sum`, forward and backward, by size of its tiles.

Memory is the peak of the resident set minus what was resident before, each case in a process of its own that first
did the same at a tiny size. Times are medians of interleaved runs. Exit code 0 whatever the numbers are.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from interleaved import Spread, Verdict, measure, paired_ratio
from reporting import write_json
from rich import box
from rich.console import Console
from rich.table import Table

from causalrn.model.config import CausalRNConfig
from causalrn.model.operators import tiles
from causalrn.model.readouts import naive
from causalrn.model.readouts import parallel as parallel_readout
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import show_progress
from causalrn.training.loop import Trainer, TrainingSettings
from causalrn.training.memory import return_freed_memory
from causalrn.training.tasks import CopyTask

STEP_TARGET_MB, TIME_TARGET, MEMORY_TARGET = 1000, 0.15, 0.05
READOUTS = {"tiles": parallel_readout.readout, "naive": naive.readout}
READOUT_SIZE = {"batch": 8, "time": 258, "hidden": 192}
TILE_SIZES = {
    "B=32 T=130 H=192": {"batch": 32, "time": 130, "hidden": 192},
    "B=64 T=34 H=64": {"batch": 64, "time": 34, "hidden": 64},
}
TILE_EXPONENTS = range(18, 24)
_NEAR_BEST = 1.05


class PeakMemory:
    """Samples the resident set of this process in a thread; `added_mb` is its peak above the start.

    Where the process has never been larger, the kernel's own record of the peak is taken into account too.
    """

    def __enter__(self) -> PeakMemory:
        self._running, self._record = True, recorded_peak_bytes()
        self._start = self._peak = resident_bytes()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._running = False
        self._thread.join()
        record = recorded_peak_bytes()
        peak = max(self._peak, record if record > self._record else 0)
        self.added_mb = (peak - self._start) / 1e6

    def _watch(self) -> None:
        while self._running:
            self._peak = max(self._peak, resident_bytes())
            time.sleep(0.0005)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recorded_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step_memory() -> float:
    """MB added by a training step of the paper's size, in this process, which is set up as the command `train` does."""
    return_freed_memory()
    one_step = TrainingSettings(steps=1, batch=32, learning_rate=5e-4)
    # what torch loads at its first step is no memory of this one
    Trainer(SequenceModel(CausalRNConfig(29, 8, 8, 1, 10)), CopyTask(4), one_step).step()
    task = CopyTask(64)
    model = SequenceModel(CausalRNConfig(task.vocabulary, 192, 192, 12, task.capacity))
    with PeakMemory() as memory:
        Trainer(model, task, one_step).step()
    return memory.added_mb


def make_pass(name: str, batch: int, time: int, hidden: int) -> Callable[[], None]:
    """Forward and backward pass of the exact readout as it is implemented under that name."""
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.standard_normal((batch, time, hidden), np.float32)).requires_grad_() for _ in range(2))
    config, readout = CausalRNConfig(29, hidden, hidden, 1, time), READOUTS[name]

    def run() -> None:
        a.grad = b.grad = None
        readout(a, b, config).square().sum().backward()

    return run


def readout_memory(name: str) -> float:
    """MB added by a pass of the readout, in this process."""
    make_pass(name, 2, 5, 8)()
    run = make_pass(name, **READOUT_SIZE)
    with PeakMemory() as memory:
        run()
    return memory.added_mb


def in_fresh_process(function: Callable[..., float], *arguments: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.apply(function, arguments)


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_readouts(repeats: int, advance) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each pass, and those outside the kernel: where pages are slow to get, naive waits."""
    passes = {name: make_pass(name, **READOUT_SIZE) for name in READOUTS}
    user: dict[str, list[float]] = {name: [] for name in READOUTS}

    def sample(name: str) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        wall = seconds(passes[name])
        user[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before)
        return wall

    passes["tiles"]()
    wall = measure({name: (lambda name=name: sample(name)) for name in READOUTS}, repeats, advance)
    return wall, user


def time_tiles(size: dict[str, int], repeats: int, advance) -> dict[int, Spread]:
    """Seconds of `pair_sum`, forward and backward, by exponent of the tile size."""
    run, before = make_pass("tiles", **size), tiles._CPU_TILE_BYTES

    def sample(exponent: int) -> float:
        tiles._CPU_TILE_BYTES = 1 << exponent
        return seconds(run)

    try:
        run()
        candidates = {str(exponent): (lambda exponent=exponent: sample(exponent)) for exponent in TILE_EXPONENTS}
        times = measure(candidates, repeats, advance)
    finally:
        tiles._CPU_TILE_BYTES = before
    return {int(name): Spread.of(values) for name, values in times.items()}


def run(repeats: int, skip_tiles: bool) -> dict:
    """Measure everything; the result is what `--json` writes."""
    tiles = {} if skip_tiles else TILE_SIZES
    total = 3 + repeats * (len(READOUTS) + len(tiles) * len(TILE_EXPONENTS))
    with show_progress("training", total) as advance:
        advance(0, "memory")
        memory = {"step": in_fresh_process(step_memory)}
        advance(1)
        for name in READOUTS:
            memory[name] = in_fresh_process(readout_memory, name)
            advance(1)
        advance(0, "time")
        wall, user = time_readouts(repeats, advance)
        sweeps = {name: time_tiles(size, repeats, advance) for name, size in tiles.items()}
    share = memory["tiles"] / memory["naive"]
    verdicts = {
        "step_mb": Verdict(Spread(*[memory["step"]] * 3), STEP_TARGET_MB, at_least=False),
        "memory_ratio": Verdict(Spread(share, share, share), MEMORY_TARGET, at_least=False),
        "time_ratio": Verdict(paired_ratio(wall, "tiles", "naive"), TIME_TARGET, at_least=False),
        "user_time_ratio": Verdict(paired_ratio(user, "tiles", "naive"), TIME_TARGET, at_least=False),
    }
    return {
        "benchmark": "training_memory",
        "settings": {"repeats": repeats, "threads": 1, "torch": torch.__version__, "readout": READOUT_SIZE},
        "memory_added_mb": memory,
        "time_s": {name: asdict(Spread.of(values)) for name, values in wall.items()},
        "user_time_s": {name: asdict(Spread.of(values)) for name, values in user.items()},
        "verdicts": {
            name: asdict(verdict.ratio) | {"target": verdict.target_text, "verdict": verdict.word}
            for name, verdict in verdicts.items()
        },
        "tile_time_s": {name: {str(e): asdict(s) for e, s in sweep.items()} for name, sweep in sweeps.items()},
        "tile_bytes": tiles._CPU_TILE_BYTES,
    }


def print_report(report: dict) -> None:
    console = Console(highlight=False, width=80)
    console.print(summary_table(report))
    if report["tile_time_s"]:
        console.print(tiles_table(report))
    console.print("One thread; medians, with half the distance between quartiles.")
    console.print("User CPU time leaves out what the kernel needs to find naive its memory.")


def summary_table(report: dict) -> Table:
    memory, verdicts = report["memory_added_mb"], report["verdicts"]
    table = Table(title="Exact readout in training", title_justify="left", box=box.SIMPLE)
    table.add_column("what", no_wrap=True)
    for name in ("tiles", "naive", "ratio", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)

    def verdict_cells(name: str) -> tuple[str, str]:
        return verdicts[name]["target"], verdicts[name]["verdict"]

    table.add_row("one step, MB added", f"{memory['step']:,.0f}", "", "", *verdict_cells("step_mb"))
    mb = [f"{memory[name]:,.0f}" for name in READOUTS]
    table.add_row("readout, MB added", *mb, *ratio_cells(verdicts, "memory_ratio"))
    for what, key in (("readout, wall ms", "time"), ("readout, user CPU ms", "user_time")):
        ms = [describe_ms(report[f"{key}_s"][name]) for name in READOUTS]
        table.add_row(what, *ms, *ratio_cells(verdicts, f"{key}_ratio"))
    return table


def ratio_cells(verdicts: dict, name: str) -> tuple[str, str, str]:
    return f"{verdicts[name]['median']:.3f}", verdicts[name]["target"], verdicts[name]["verdict"]


def describe_ms(spread: dict[str, float]) -> str:
    median, half = 1000 * spread["median"], 500 * (spread["high"] - spread["low"])
    return f"{median:,.0f} ± {half:.0f}" if median >= 100 else f"{median:.1f} ± {half:.1f}"


def tiles_table(report: dict) -> Table:
    """Time by tile size; the best and what is within 5 % of it are marked."""
    sweeps = report["tile_time_s"]
    table = Table(title="pair_sum by tile size: ms, * within 5 % of the best", title_justify="left", box=box.SIMPLE)
    table.add_column("tile bytes")
    for name in sweeps:
        table.add_column(name, justify="right", no_wrap=True)
    best = {name: min(spread["median"] for spread in sweep.values()) for name, sweep in sweeps.items()}
    for exponent in TILE_EXPONENTS:
        cells = []
        for name, sweep in sweeps.items():
            spread = sweep[str(exponent)]
            mark = "*" if spread["median"] <= _NEAR_BEST * best[name] else " "
            cells.append(f"{describe_ms(spread)} {mark}")
        used = " (used)" if 1 << exponent == report["tile_bytes"] else ""
        table.add_row(f"2^{exponent}{used}", *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--repeats", type=int, default=7, help="how often the candidates take turns (default 7)")
    parser.add_argument("--skip-tiles", action="store_true", help="leave out the sweep over tile sizes")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats: medians and quartiles need at least 3")
    if not Path("/proc/self/statm").exists():
        parser.error("this reads /proc/self/statm, which this system does not have: run it on Linux")
    torch.set_num_threads(1)
    report = run(options.repeats, options.skip_tiles)
    print_report(report)
    write_json(options.json, report)


if __name__ == "__main__":
    sys.exit(main())
