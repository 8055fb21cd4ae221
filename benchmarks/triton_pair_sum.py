"""The sum over pairs by Triton: what is compiled, and on an NVIDIA GPU what it takes. Run it:

    python benchmarks/triton_pair_sum.py [--width D ...] [--capability N ...] [--repeats N] [--json FILE]

It needs `pip install 'causalrn[export]' triton`. Without a GPU, in about two minutes, it compiles the exact readout's
programs for each width and compute capability and shows registers, spills, shared memory and instructions. With one
that torch can use it also times, in turns, at the paper's sizes ([320, 34 .. 130, 192], copying 16 to 64 letters):

- forward and backward pass: Triton in float32 and bfloat16, PyTorch in tiles, and the definition, which holds
  [B, T, T, H] and is left out where that does not fit;
- a training step of 12 blocks: the exact readout with Triton and with tiles, and a Transformer of the same width with
  PyTorch's scaled_dot_product_attention.

Exit code 1 if a program of width 64 or 192 spills registers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from interleaved import Spread, measure, paired_ratio
from reporting import write_json
from rich.console import Console
from rich.table import Table
from triton_builds import PASSES, Build, build

from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import KERNELS
from causalrn.model.readouts import naive
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import show_progress
from causalrn.training.loop import PRESETS, Trainer, TrainingSettings
from causalrn.training.tasks import CopyTask

WIDTHS, CAPABILITIES = (64, 192, 768, 3072), (80, 90)
NEVER_SPILL = (64, 192)
LENGTHS, BATCH = (16, 32, 64), 320
DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
_EXACT = PairFunction("exp", "layer")
Runs = dict[str, Callable[[], object]]


def compile_all(options: argparse.Namespace) -> list[Build]:
    function, dtype = PairFunction(options.activation, "layer"), DTYPES[options.dtype]
    with show_progress("compiling", len(options.width) * len(options.capability) * len(options.only)) as advance:
        rows = []
        for width in options.width:
            for capability in options.capability:
                for name in options.only:
                    rows.append(build(name, width, capability, dtype, function))
                    advance(1)
    return rows


def print_builds(rows: list[Build]) -> None:
    table = Table(
        "D", "capability", "pass", "tile", "warps", "registers", "spills", "shared", "instructions", "special"
    )
    for row in rows:
        sizes = (row.width, f"{row.capability / 10}", row.rows, f"{row.queries} x {row.keys}", row.warps)
        found = (row.registers, row.spill_bytes, row.shared_bytes, row.instructions, row.special)
        table.add_row(*map(str, (*sizes, *found)))
    Console(highlight=False, width=110).print(table)


def make_passes(steps: int, device: str, batch: int = BATCH, hidden: int = 192) -> Runs:
    """Forward and backward pass at one size, by what computes it."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(batch, steps, 1, hidden, generator=generator).to(device) for _ in range(3)]
    halves = [x.bfloat16() for x in tensors]
    runs: Runs = {f"{name}, float32": partial(_pass, name, *tensors) for name in ("triton", "tiles")}
    runs["triton, bfloat16"] = partial(_pass, "triton", *halves)
    runs["definition, float32"] = partial(_defined_pass, *tensors)
    return runs


def _pass(name: str, q: torch.Tensor, k: torch.Tensor, gradient: torch.Tensor) -> None:
    KERNELS[name].sum_pairs(q, k, _EXACT)
    KERNELS[name].differentiate_pairs(q, k, gradient, _EXACT)


def _defined_pass(q: torch.Tensor, k: torch.Tensor, gradient: torch.Tensor) -> None:
    config = CausalRNConfig(vocabulary=2, embedding=q.shape[-1], hidden=q.shape[-1], blocks=1, capacity=q.shape[1])
    a, b = (x.flatten(2).requires_grad_() for x in (q, k))
    torch.autograd.grad(naive.readout(a, b, config), (a, b), gradient.flatten(2))


def make_steps(length: int, device: str, batch: int = BATCH, preset: str = "paper") -> Runs:
    """A training step of each model."""
    task, size = CopyTask(length), PRESETS[preset]
    runs: Runs = {}
    for kernel in ("triton", "tiles"):
        settings = TrainingSettings(10_000, batch, size.learning_rate, device=device, kernel=kernel)
        runs[f"exact readout, {kernel}"] = Trainer(SequenceModel(size.model(task)), task, settings).step
    transformer = size.model(task, TransformerConfig, heads=1)
    settings = TrainingSettings(10_000, batch, size.learning_rate, device=device)
    runs["Transformer"] = Trainer(SequenceModel(transformer), task, settings).step
    return runs


def time_all(device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of everything, and what it takes next to the first of its row."""
    rows = {}
    with show_progress("timing", 2 * len(LENGTHS)) as advance:
        for length in LENGTHS:
            steps = CopyTask(length).capacity
            rows[f"pass [{BATCH}, {steps}, 192]"] = compare(make_passes(steps, device), device, repeats)
            advance(1)
            rows[f"step [{BATCH}, {steps}, 192], 12 blocks"] = compare(make_steps(length, device), device, repeats)
            advance(1)
    return rows


def compare(runs: Runs, device: str, repeats: int) -> dict[str, Any]:
    fitting = {name: run for name, run in runs.items() if _fits(run)}
    times = measure({name: partial(_ms, run, device) for name, run in fitting.items()}, repeats, lambda _: None)
    first = next(iter(fitting))
    ratios = {name: asdict(paired_ratio(times, name, first)) for name in fitting}
    return {
        "ms": {name: asdict(Spread.of(values)) for name, values in times.items()},
        f"of {first}": ratios,
        "out of memory": sorted(set(runs) - set(fitting)),
    }


def _fits(run: Callable[[], object]) -> bool:
    """Run it twice, for what is compiled and allocated once."""
    try:
        run()
        run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _ms(run: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return 1e3 * (time.perf_counter() - start)


def print_times(rows: dict[str, dict[str, Any]]) -> None:
    table = Table("what", "by", "ms", "quartiles")
    for name, row in rows.items():
        for by, spread in row["ms"].items():
            table.add_row(name, by, f"{spread['median']:.2f}", f"{spread['low']:.2f} .. {spread['high']:.2f}")
    Console(highlight=False, width=110).print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS, metavar="D", help="channels of a row")
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES, metavar="N", help="80 is 8.0")
    parser.add_argument("--only", nargs="+", choices=PASSES, default=PASSES, metavar="PASS", help="programs to compile")
    parser.add_argument("--activation", choices=["exp", "elu", "relu", "gelu"], default="exp", help="compiled for it")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="compiled for it")
    parser.add_argument("--repeats", type=int, default=9, help="how often candidates take turns (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats: medians and quartiles need at least 3")
    return options


def main() -> int:
    options = parse_options()
    builds = compile_all(options)
    print_builds(builds)
    times, gpu = None, None
    if torch.cuda.is_available():
        gpu, times = torch.cuda.get_device_name(), time_all("cuda", options.repeats)
        print_times(times)
    else:
        print("nothing was timed: torch sees no GPU")
    report = {
        "benchmark": "triton_pair_sum",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "environment": describe_environment(),
        "activation": options.activation,
        "dtype": options.dtype,
        "builds": [asdict(row) for row in builds],
        "gpu": gpu,
        "times": times,
    }
    write_json(options.json, report)
    return int(any(row.spill_bytes for row in builds if row.width in NEVER_SPILL))


if __name__ == "__main__":
    sys.exit(main())
