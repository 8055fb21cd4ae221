"""Engines on a GPU: build, run, verify and time them in one go, beside onnxruntime and PyTorch.

    make gpu-check                                                  a few minutes on a machine with an NVIDIA GPU
    python benchmarks/gpu_check.py --run run-exact --run run-linear --json docs/gpu_check.json

It needs `pip install 'causalrn[export,tensorrt-rtx]'` and, for its PyTorch peers, a CUDA build of torch. Without --run
it trains an exact and a linear model of the paper's size to copy 16 letters. Every engine (float32, fp16, w8, w8a8) is
compiled, held to the float64 oracle by `verify`, and timed in one interleaved run: time per token of whole sequences,
logits back on the host, for one sequence and for 16.

Where the GPU, its driver or TensorRT does not run the engines, the report has the reason in TensorRT's words, and the
PyTorch peers are timed all the same. Exit code 0: all engines ran and passed; 1: one did not pass; 3: none could run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuda_peers import EagerCell, GraphedCell
from interleaved import measure, paired_ratio
from reporting import write_json
from rich.console import Console

from causalrn.bundle.json_values import to_json
from causalrn.errors import CausalRNError, NotExecutedError
from causalrn.runtimes import open_session
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.trt.cuda_device import CudaDevice
from causalrn.training.card import card_of
from causalrn.training.checkpoint import load_checkpoint
from causalrn.workflows.compile import compile
from causalrn.workflows.export_targets import export_bundle
from causalrn.workflows.quantize_bundle import quantize_bundle
from causalrn.workflows.quantize_options import QuantizeOptions
from causalrn.workflows.verify import verify

PRECISIONS: dict[str, tuple[str, str | None] | None] = {
    "float32": None,
    "fp16": ("fp16", None),
    "w8": ("w8", "qdq"),
    "w8a8": ("w8a8", None),
}
READOUTS = ("exact", "linear")
BATCHES = (1, 16)
REPEATS = 7
_FAILED, _NOT_EXECUTED = 1, 3
"""Exit codes, as the command line has them."""
_BUDGET = {"kl_divergence": 1e9, "accuracy_drop": 1.0}
"""`quantize` keeps everything here: it is `verify` that judges the engines."""


def main() -> int:
    """Check and time everything; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", dest="runs", type=Path, action="append", help="a checkpoint folder; may be repeated")
    parser.add_argument("--folder", type=Path, help="keep models and engines here (default: a temporary folder)")
    parser.add_argument("--preset", default="paper", help="size of what is trained (default: paper)")
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: 400)")
    parser.add_argument("--flavor", default="rtx", choices=["rtx", "trt"])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"report": "causalrn-gpu-check", "version": 1, "machine": describe_machine()}
        report["models"] = []
        for run in args.runs or train_runs(folder, args.preset, args.steps):
            report["models"].append(check_model(run, folder / f"{run.name}-engines", args.flavor, args.repeats))
            write_json(args.json, report)  # an interrupted check keeps what it has
            print_model(report["models"][-1])
    return exit_code(report)


def describe_machine() -> dict[str, Any]:
    """The GPU and versions, or why there is none."""
    found = {**describe_environment(), "gpu": None}
    try:
        device = CudaDevice()
    except NotExecutedError as error:
        return {**found, "no_gpu": str(error)}
    found["gpu"] = {
        "name": device.name,
        "compute_capability": device.compute_capability,
        "cuda_driver": device.driver_version,
    }
    device.close()
    return found


def train_runs(folder: Path, preset: str, steps: int) -> Iterator[Path]:
    """Train what is not there yet."""
    for readout in READOUTS:
        run = folder / f"{preset}-{readout}"
        if not run.exists():
            command = [sys.executable, "-m", "causalrn", "train", "--length", "16", "--readout", readout]
            subprocess.run([*command, "--preset", preset, "--steps", str(steps), "-o", run], check=True)
        yield run


def check_model(run: Path, folder: Path, flavor: str, repeats: int) -> dict[str, Any]:
    """All engines of one model, then the interleaved timing."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "onnx"
    bundle = export_bundle(run, source, pool="fixed", capacity=None, opset=23)
    capacity = bundle.manifest.state.capacity or 128
    engines = [check_engine(run, source, folder, precision, flavor) for precision in PRECISIONS]
    opened = {f"TensorRT {e['precision']}": Path(e["path"]) for e in engines if e["executed"]}
    rows = [row for batch in BATCHES for row in time_steps(run, source, opened, capacity, batch, repeats)]
    for engine in engines:
        del engine["path"]
    return {"model": card_of(bundle).config.describe(), "run": run.name, "engines": engines, "times": rows}


def check_engine(run: Path, source: Path, folder: Path, precision: str, flavor: str) -> dict[str, Any]:
    """Quantize, compile and verify one engine."""
    found: dict[str, Any] = {"precision": precision, "path": str(folder / f"{precision}-engine")}
    bundle, scheme = source, PRECISIONS[precision]
    if scheme is not None:
        bundle = folder / f"{precision}-onnx"
        quantize_bundle(source, bundle, QuantizeOptions(*scheme, limits=_BUDGET), run)
    engine = Path(found["path"])
    compiled = compile(bundle, output=engine, flavor=flavor).to_json()
    found["build_s"], found["size_bytes"] = compiled["seconds"], sum(compiled["size_bytes"].values())
    report = verify(engine, checkpoint=run, runtime="tensorrt").report
    found["verdict"], found["executed"], found["why_not"] = report.verdict, not report.not_executed, report.not_executed
    found["results"] = to_json(report.results)
    return found


def time_steps(
    run: Path, source: Path, engines: dict[str, Path], capacity: int, batch: int, repeats: int
) -> list[dict[str, Any]]:
    """Time per token of everything that can run here, in one interleaved run."""
    tokens = np.random.default_rng(0).integers(0, 29, (capacity, batch))
    sessions = {name: open_session(path) for name, path in engines.items()}
    if engines:
        first = next(iter(engines))
        sessions[f"{first}, no CUDA graph"] = open_session(engines[first], no_cuda_graph=True)
    sessions["onnxruntime CPU"] = open_session(source)
    samples = {name: _sample_session(session, tokens) for name, session in sessions.items()}
    samples |= {name: _sample_peer(peer, tokens) for name, peer in torch_peers(run, capacity, batch).items()}
    for sample in samples.values():
        sample()  # kernels are compiled and chosen
    with show_progress(f"batch {batch}", repeats * len(samples)) as advance:
        times = measure(samples, repeats, advance)
    for session in sessions.values():
        session.close()
    return [
        {
            "name": name,
            "batch": batch,
            "us_per_step": statistics.median(each),
            "of_onnxruntime_cpu": paired_ratio(times, name, "onnxruntime CPU").__dict__,
        }
        for name, each in times.items()
    ]


def torch_peers(run: Path, capacity: int, batch: int) -> dict[str, EagerCell]:
    """PyTorch on the GPU; nothing where torch sees none."""
    if not torch.cuda.is_available():
        return {}
    model = load_checkpoint(run).model
    return {
        "PyTorch CUDA eager": EagerCell(model, capacity, "cuda", batch),
        "PyTorch CUDA graph": GraphedCell(model, capacity, "cuda", batch),
    }


def _sample_session(session: Session, tokens: np.ndarray) -> Callable[[], float]:
    return _sampled(lambda: session.reset(tokens.shape[1]), session.step, tokens)


def _sample_peer(peer: EagerCell, tokens: np.ndarray) -> Callable[[], float]:
    return _sampled(peer.reset, peer.step, tokens)


def _sampled(
    reset: Callable[[], object], step: Callable[[np.ndarray], object], tokens: np.ndarray
) -> Callable[[], float]:
    """One whole sequence, in microseconds per step."""

    def sample() -> float:
        reset()
        started = time.perf_counter()
        for row in tokens:
            step(row)
        return 1e6 * (time.perf_counter() - started) / len(tokens)

    return sample


def print_model(model: dict[str, Any]) -> None:
    """One model's verdicts and times."""
    out = Console(highlight=False, markup=False, width=100)
    out.print(f"\n{model['run']}: {model['model']}", style="bold")
    for engine in model["engines"]:
        size, built = engine["size_bytes"] / 1e6, engine["build_s"]
        out.print(f"{engine['precision']:8} {size:6.1f} MB, built in {built:.1f} s, {engine['verdict']}")
    for why in sorted({engine["why_not"] for engine in model["engines"] if engine["why_not"]})[:1]:
        out.print(f"engines were not run: {why}", soft_wrap=True)
    for row in model["times"]:
        ratio = row["of_onnxruntime_cpu"]["median"]
        out.print(f"batch {row['batch']:3} {row['name']:32} {row['us_per_step']:9.1f} us per step, {ratio:.2f}x")
    if not any(row["name"].startswith("PyTorch") for row in model["times"]):
        out.print("PyTorch CUDA was not timed: torch sees no GPU")


def exit_code(report: dict[str, Any]) -> int:
    """0 if everything passed, 1 if an engine did not, 3 if none could run."""
    engines = [engine for model in report["models"] for engine in model["engines"]]
    if any(engine["verdict"] == "FAIL" for engine in engines):
        return _FAILED
    return 0 if all(engine["executed"] for engine in engines) else _NOT_EXECUTED


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CausalRNError as error:
        sys.exit(f"Error: {error}")
