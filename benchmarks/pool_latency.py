"""What narrow pools are worth in C: long pools and batches, where reading rows is the bound. Run it, from anywhere:

    python benchmarks/pool_latency.py [--json FILE] [--repeats N]

It needs `pip install 'causalrn[export]'`, gcc or clang, and about two minutes. An exact model of the paper's size
(E = H = 192, 12 blocks) takes steps on one thread, in the best kernel of this processor, with pools of float32,
float16 and int8: one sequence with 1,024 and 4,096 positions, and eight with 1,024. Pools hold random rows: time does
not depend on what they hold.

All candidates take turns in one run, ratios are paired within a turn. Times are processor time, so that other programs
take nothing of them but caches and memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from interleaved import Spread, Verdict, measure, paired_ratio
from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.compiling.c_compiler import find_compiler
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.snapshot import Snapshot
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint

CONFIG = CausalRNConfig(vocabulary=29, embedding=192, hidden=192, blocks=12, capacity=4160)
DTYPES = ("float32", "float16", "int8")
PLACES = ((1, 1024), (1, 4096), (8, 1024))
"""Batch and positions."""
TARGETS = {
    ("float16", 8, 1024): (("float32", 1, 1024), 8.5),
    ("float16", 1, 4096): (("float32", 1, 4096), 0.85),
}
"""Beside what, and at most how many times its time."""
LEAST_STEPS = 5


def session_of(dtype: str, folder: Path) -> NativeSession:
    folder.mkdir()
    checkpoint = Checkpoint(unit_gain_model(CONFIG), ModelCard(CONFIG), "benchmark")
    return NativeSession(seal_bundle(folder, export_c(checkpoint, folder, COptions(pool_dtype=dtype))))


def filled(session: NativeSession, batch: int, positions: int) -> None:
    """Go on from random rows."""
    rng, tensors = np.random.default_rng(0), {}
    for tensor in session.spec.tensors:
        shape = tensor.sized(batch=batch, rows=positions)
        values = rng.standard_normal(shape, np.float32)
        if tensor.dtype == "int8":
            values = np.rint(40 * values).clip(-127, 127)
        elif tensor.is_scale:
            values = np.full(shape, 1 / 40)
        tensors[tensor.name] = values.astype(tensor.dtype)
    session.restore(Snapshot(positions, batch, tensors, None, session.owner))


def sample_steps(session: NativeSession, batch: int, positions: int) -> Callable[[], float]:
    """Median processor time of some steps, in microseconds, after two untimed ones."""
    tokens = np.full(batch, 3)
    filled(session, batch, positions)

    def step_us() -> float:
        start = time.process_time_ns()
        session.step(tokens)
        spent = time.process_time_ns() - start
        session._position = positions  # rows behind it do not count
        return spent / 1000

    def sample() -> float:
        times = [step_us() for _ in range(2 + max(LEAST_STEPS, 4 * 4096 // (batch * positions)))]
        return statistics.median(times[2:])

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--repeats", type=int, default=15, help="how often the candidates take turns (default 15)")
    options = parser.parse_args()
    if options.repeats < 7:
        parser.error("--repeats: medians need at least 7")
    places = [(dtype, batch, positions) for batch, positions in PLACES for dtype in DTYPES]
    names = {place: f"{place[0]}, batch {place[1]}, t = {place[2]:,}" for place in places}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {place: session_of(place[0], Path(folder) / str(number)) for number, place in enumerate(places)}
        samples = {names[place]: sample_steps(sessions[place], *place[1:]) for place in places}
        with show_progress("pool latency", options.repeats * len(places)) as advance:
            times = measure(samples, options.repeats, advance)
        isa = next(iter(sessions.values())).isa
    table = Table(title=f"Steps in C ({isa}), us of processor time", title_justify="left", box=None, padding=(0, 1))
    for column in ("", "median", "quartiles", "ratio", "beside", "target"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    rows = []
    pairs = [(place, ("float32", *place[1:]), None) for place in places]
    pairs += [(place, beside, target) for place, (beside, target) in TARGETS.items()]
    for place, beside, target in pairs:
        name, spread = names[place], Spread.of(times[names[place]])
        verdict = Verdict(paired_ratio(times, name, names[beside]), target, at_least=False)
        wanted = "" if target is None else f"{verdict.target_text} ({verdict.word})"
        ratio = f"{verdict.ratio.median:.2f}x ({verdict.ratio.low:.2f} to {verdict.ratio.high:.2f})"
        quartiles = f"{spread.low:,.0f} to {spread.high:,.0f}"
        table.add_row(name, f"{spread.median:,.0f}", quartiles, ratio, names[beside], wanted)
        entry = {"what": name, "us": asdict(spread), "beside": names[beside], "ratio": asdict(verdict.ratio)}
        rows.append({**entry, "target": verdict.target_text, "verdict": verdict.word})
    Console(width=140).print(table)
    settings = {"repeats": options.repeats, "threads": 1, "compiler": " ".join(find_compiler()), "isa": isa}
    data = {"benchmark": "pool_latency", "settings": settings, "machine": describe_environment(), "rows": rows}
    write_json(options.json, data)


if __name__ == "__main__":
    main()
