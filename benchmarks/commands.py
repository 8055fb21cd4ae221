"""What commands take, at three sizes, here and in another checkout. Run it:

    python benchmarks/commands.py [--against PYTHON] [--repeats N] [--sizes tiny,small,paper] [--only COMMANDS]

PYTHON is the interpreter of an environment with another version installed, e.g. ../before/.venv/bin/python: the
two take turns, and the ratio is paired within each turn. Exact models, untrained but for `train`: tiny is E = H = 64,
4 blocks, capacity 34; small 128, 6, 130; paper 192, 12, 4,096. `train` takes 400 steps of tiny, 20 of small and 3 of
paper (batch 32). It needs `pip install 'causalrn[export]'` and a C compiler; minutes for tiny, an hour for all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from interleaved import Spread, measure, paired_ratio
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.bundle.alphabet import Alphabet
from causalrn.model.config import CausalRNConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.tasks import CopyTask

SIZES = {"tiny": (64, 4, 34), "small": (128, 6, 130), "paper": (192, 12, 4096)}
TRAIN = {
    "tiny": ["--length", "16"],
    "small": ["--length", "64", "--preset", "small", "--steps", "20"],
    "paper": ["--length", "64", "--preset", "paper", "--steps", "3", "--batch", "32"],
}


def write_model(folder: Path, size: str) -> None:
    """A checkpoint folder with weights that are large enough for readouts to differ."""
    width, blocks, capacity = SIZES[size]
    torch.manual_seed(0)
    task = CopyTask(capacity // 2 - 1)
    model = SequenceModel(CausalRNConfig(task.vocabulary, width, width, blocks, capacity))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    save_checkpoint(folder, model, ModelCard(model.config, Alphabet("letters"), task), {})


def commands(size: str, place: Path) -> dict[str, list[str]]:
    """The commands, in an order in which each finds what it needs."""
    run, bundle = str(place / "run"), str(place / "bundle")
    return {
        "train": ["train", *TRAIN[size], "-o", str(place / "trained"), "--overwrite"],
        "export": ["export", run, "-o", bundle, "--overwrite"],
        "verify": ["verify", bundle, "--checkpoint", run, "--samples", "100"],
        "verify on a device": ["verify", bundle],
    }


def timed(python: str, arguments: list[str], place: Path) -> Callable[[], float]:
    """Run in a folder without sources: `-m` looks there first."""
    command = [python, "-m", "causalrn", *arguments]

    def run() -> float:
        start = time.perf_counter()
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
        return time.perf_counter() - start

    return run


def measure_size(size: str, pythons: dict[str, str], repeats: int, only: list[str] | None, advance) -> dict[str, dict]:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place / "run", size)
        for name, arguments in commands(size, place).items():
            if only is not None and name not in only:
                continue
            runs = {which: timed(python, arguments, place) for which, python in pythons.items()}
            runs["here"]()  # compiles what is kept, and leaves what the next command needs
            times = measure(runs, repeats, advance)
            row = {"seconds": {which: asdict(Spread.of(values)) for which, values in times.items()}}
            if "before" in times:
                row["ratio"] = asdict(paired_ratio(times, "here", "before"))
            rows[f"{size}: {name}"] = row
    return rows


def print_report(rows: dict[str, dict]) -> None:
    table = Table("command", "before, s", "here, s", "ratio")
    for name, row in rows.items():
        seconds = {which: f"{spread['median']:.1f}" for which, spread in row["seconds"].items()}
        ratio = f"{row['ratio']['median']:.2f}" if "ratio" in row else ""
        table.add_row(name, seconds.get("before", ""), seconds["here"], ratio)
    Console(highlight=False, width=80).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="PYTHON", help="interpreter of an environment with another version")
    parser.add_argument("--repeats", type=int, default=7, help="how often they take turns (default 7)")
    parser.add_argument("--sizes", default="tiny", help="comma-separated (default tiny)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--only", metavar="COMMANDS", help="comma-separated, e.g. train,export")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else None
    sizes = options.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"--sizes: {', '.join(sorted(unknown))} is unknown: choose from {', '.join(SIZES)}")
    pythons = {"here": sys.executable} | ({"before": options.against} if options.against else {})
    rows: dict[str, dict] = {}
    with show_progress(
        "commands", len(pythons) * options.repeats * (4 if only is None else len(only)) * len(sizes)
    ) as advance:
        for size in sizes:
            rows |= measure_size(size, pythons, options.repeats, only, advance)
    print_report(rows)
    write_json(options.json, {"benchmark": "commands", "environment": describe_environment(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
