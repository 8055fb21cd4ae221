"""A linear cell without positions over a million steps: memory, and drift from a float64 recurrence. Run it:

    python benchmarks/long_stream.py [--steps N] [--width E] [--json FILE] [--plot FILE.png]

It needs `pip install 'causalrn[export]'` (and `[report]` for the plot) and about two minutes. The bundle is stepped in
onnxruntime, one token at a time; the reference is the float64 cell over the same tokens. It shows the resident memory
before and after, and the relative error of the logits at a dozen depths: the running sum grows with every token, so
each float32 addition rounds away a larger piece of what is added.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.export.onnx_exporter import export_onnx
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import CausalRNConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.bench.system import resident_bytes
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint

_CHUNK = 4096
_DEPTHS_PER_RUN = 12
_WARM_STEPS = 1000


def streaming_model(width: int) -> SequenceModel:
    """Linear readout, no positions, four blocks, weights of unit gain and biases that are not zero."""
    torch.manual_seed(0)
    model = SequenceModel(CausalRNConfig(29, width, width, 4, None, readout="linear", positions="none"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3)
    return model.eval()


def depths_of(steps: int) -> list[int]:
    """Where logits are compared: evenly spread over the powers of the step number, the last step among them."""
    return sorted({int(d) for d in np.geomspace(10, steps, _DEPTHS_PER_RUN)} | {steps})


def reference_logits(model: SequenceModel, tokens: np.ndarray, depths: list[int], advance) -> dict[int, np.ndarray]:
    """Logits of the float64 cell after each depth."""
    cell = RecurrentCell.from_model(model, dtype=torch.float64)
    session = RecurrentSession(cell, ModelCard(model.config))
    session.prefill_chunk = _CHUNK
    wanted, found = set(depths), {}
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        logits = session.prefill(chunk[None])[0]
        found |= {d: logits[d - start - 1].copy() for d in wanted if start < d <= start + len(chunk)}
        advance(len(chunk))
    return found


def step_logits(session: OnnxRuntimeSession, tokens: np.ndarray, depths: list[int], advance) -> dict:
    """Logits step by step, and the memory and time that it took."""
    wanted, found, started = set(depths), {}, time.perf_counter()
    before = 0.0
    for index, token in enumerate(tokens.tolist(), start=1):
        logits = session.step([token])
        if index in wanted:
            found[index] = logits[0].copy()
        if index == _WARM_STEPS:
            before = resident_bytes() / 1e6
        if index % _CHUNK == 0:
            advance(_CHUNK)
    seconds = time.perf_counter() - started
    return {"logits": found, "memory_added_mb": resident_bytes() / 1e6 - before, "step_us": 1e6 * seconds / len(tokens)}


def run(steps: int, width: int) -> dict:
    model = streaming_model(width)
    tokens = np.random.default_rng(0).integers(0, model.config.vocabulary, steps)
    depths = depths_of(steps)
    with tempfile.TemporaryDirectory() as folder, show_progress("long stream", 2 * steps) as advance:
        manifest = export_onnx(Checkpoint(model, ModelCard(model.config), "benchmark"), Path(folder))
        session = OnnxRuntimeSession(seal_bundle(Path(folder), manifest))
        measured = step_logits(session, tokens, depths, advance)
        expected = reference_logits(model, tokens, depths, advance)
    errors = {
        depth: float(np.abs(measured["logits"][depth] - want).max() / np.abs(want).max())
        for depth, want in expected.items()
    }
    return {
        "benchmark": "long_stream",
        "model": model.config.describe(),
        "steps": steps,
        "memory_added_mb": measured["memory_added_mb"],
        "step_us": measured["step_us"],
        "relative_errors": [{"step": depth, "error": error} for depth, error in sorted(errors.items())],
    }


def print_report(report: dict) -> None:
    console = Console(highlight=False, width=80)
    table = Table("step", "relative error of logits", title=report["model"], title_justify="left")
    for row in report["relative_errors"]:
        table.add_row(f"{row['step']:,}", f"{row['error']:.1e}")
    console.print(table)
    console.print(
        f"{report['steps']:,} steps, {report['step_us']:.0f} us each; resident memory grew by "
        f"{report['memory_added_mb']:.1f} MB after the first {_WARM_STEPS:,}."
    )


def plot(report: dict, path: Path) -> None:
    """The drift as a curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    rows = report["relative_errors"]
    axes.loglog([row["step"] for row in rows], [row["error"] for row in rows], marker="o")
    axes.set_xlabel("steps")
    axes.set_ylabel("error relative to the largest |logit|")
    axes.set_title("float32 steps against a float64 recurrence, linear readout")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="tokens to step (default 1,000,000)")
    parser.add_argument("--width", type=int, default=64, help="E = H (default 64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the drift into this picture")
    options = parser.parse_args()
    if options.steps <= _WARM_STEPS:
        parser.error(f"--steps: more than {_WARM_STEPS} are needed to see anything")
    report = run(options.steps, options.width)
    print_report(report)
    write_json(options.json, report)
    if options.plot is not None:
        plot(report, options.plot)


if __name__ == "__main__":
    sys.exit(main())
