"""Where `train --compile` helps: a training step through torch.compile against an eager one. Run it, from anywhere:

    python benchmarks/compile_speed.py [--preset tiny|small] [--length N] [--repeats N] [--json FILE]

It needs `pip install 'causalrn[export]'`, a C++ compiler and about two minutes, most of them compiling. One thread;
eager and compiled steps of the same model take turns, the ratio is paired within each turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from interleaved import Spread, measure, paired_ratio
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import show_progress
from causalrn.training.loop import PRESETS, Trainer, TrainingSettings
from causalrn.training.tasks import CopyTask

MODELS = {
    "CausalRN, linear": (CausalRNConfig, {"readout": "linear"}),
    "CausalRN, plain": (CausalRNConfig, {"readout": "plain"}),
    "Transformer": (TransformerConfig, {"attention": "softmax"}),
    "Linear Transformer": (TransformerConfig, {"attention": "linear"}),
}
_STEPS = 3


def trainer(name: str, preset: str, length: int, compiled: bool) -> Trainer:
    kind, fields = MODELS[name]
    size, task = PRESETS[preset], CopyTask(length)
    settings = TrainingSettings(10_000, size.batch, size.learning_rate, compile=compiled)
    return Trainer(SequenceModel(size.model(task, kind, **fields)), task, settings)


def sample(trainer: Trainer) -> float:
    """Seconds of one step, the mean of a few."""
    start = time.perf_counter()
    for _ in range(_STEPS):
        trainer.step()
    return (time.perf_counter() - start) / _STEPS


def compare(name: str, options: argparse.Namespace, advance) -> dict:
    preset, length = options.preset, options.length
    trainers = {mode: trainer(name, preset, length, mode == "compiled") for mode in ("eager", "compiled")}
    started = time.perf_counter()
    trainers["compiled"].step()
    compile_s = time.perf_counter() - started
    samples = {mode: (lambda trainer=trainer: sample(trainer)) for mode, trainer in trainers.items()}
    times = measure(samples, options.repeats, advance)
    return {
        "compile_s": compile_s,
        "step_s": {mode: asdict(Spread.of(values)) for mode, values in times.items()},
        "speedup": asdict(paired_ratio(times, "eager", "compiled")),
    }


def print_report(report: dict) -> None:
    table = Table("model", "eager, ms", "compiled, ms", "speed-up", "compiling, s", title=report["title"])
    for name, row in report["models"].items():
        steps = [f"{1e3 * row['step_s'][mode]['median']:.1f}" for mode in ("eager", "compiled")]
        table.add_row(name, *steps, f"{row['speedup']['median']:.2f}", f"{row['compile_s']:.0f}")
    Console(highlight=False, width=80).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["tiny", "small"], default="tiny", help="size (default tiny)")
    parser.add_argument("--length", type=int, default=32, help="letters per string (default 32)")
    parser.add_argument("--repeats", type=int, default=9, help="how often the two take turns (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats: medians and quartiles need at least 3")
    torch.set_num_threads(1)
    title = f"A training step, preset {options.preset}, copying {options.length} letters, one thread"
    with show_progress("compile", 2 * options.repeats * len(MODELS)) as advance:
        models = {name: compare(name, options, advance) for name in MODELS}
    report = {"benchmark": "compile_speed", "title": title, "torch": torch.__version__, "models": models}
    print_report(report)
    write_json(options.json, report)


if __name__ == "__main__":
    sys.exit(main())
