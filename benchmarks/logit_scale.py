"""How far quantization moves the scale and the offset of logits: what the limits in bundle/tolerances.py rest on.

    python benchmarks/logit_scale.py RUN ... --json docs/logit_scale.json

RUN are trained checkpoint folders. Each is exported and quantized by every scheme; runs of 4 sequences of the task and
of random tokens, and each sequence alone, are compared with the float64 oracle, as `verify` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reporting import write_json

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.quantization import pool_name
from causalrn.calibration.rollouts import Prompts
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.calibration.table import calibrate
from causalrn.errors import ConfigError, RuntimeUnavailableError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.logit_fit import LogitFit, fit_logits
from causalrn.runtimes.parity.reference import run_in_chunks, sample_tokens
from causalrn.runtimes.torch_sessions import forward_with_streams
from causalrn.training.checkpoint import load_checkpoint
from causalrn.workflows.export_targets import export_bundle, export_c_bundle

SEEDS, SEQUENCES = 5, 4
SCHEMES = (Scheme("fp16"), Scheme("w8", "nbits"), Scheme("w8", "qdq"), Scheme("w8a8-dynamic"), Scheme("w8a8"))
SCHEMES += (Scheme("w4", "nbits"), Scheme("float32", pool="int8"), Scheme("w8", "nbits", pool="int8"))
C_SCHEMES = ("w8", "w8a8-dynamic")


def quantized_bundles(run: Path, folder: Path, *, golden: bool = False) -> Iterator[tuple[str, Bundle]]:
    """All schemes of a checkpoint folder by their words, ONNX and C; with golden vectors or without."""
    source = export_bundle(run, folder / "float32", pool="growing", capacity=None, opset=23)
    task = load_checkpoint(run).card.task
    assert task is not None
    limits = calibrate(source, Prompts.of_task(task, 64, 0, source.manifest.state.capacity)).limits("minmax")
    for scheme in SCHEMES:
        if scheme.pool != "float32" and not source.manifest.state.has_pool:
            continue
        chosen = dataclasses.replace(scheme, limits=limits) if scheme.name == "w8a8" else scheme
        words = " ".join(
            filter(None, (scheme.name, scheme.form, "" if scheme.pool == "float32" else pool_name(scheme.pool)))
        )
        (target := folder / words).mkdir()
        yield words, write_quantized(source, target, chosen, golden=golden)
    for name in C_SCHEMES:
        try:
            yield f"{name} C", export_c_bundle(run, folder / f"{name} C", COptions(scheme=name))
        except (ConfigError, RuntimeUnavailableError) as error:
            print(f"{name} C: {error}")


def fits_of(bundle: Bundle, tokens: np.ndarray, expected: np.ndarray) -> LogitFit:
    """As the level logits has it: each sequence alone, and all as a batch."""
    parts = [slice(row, row + 1) for row in range(len(tokens))] + [slice(None)]
    with open_bundle(bundle) as session:
        steps = [1] * tokens.shape[1]
        return fit_logits([(run_in_chunks(session, tokens[part], steps).logits, expected[part]) for part in parts])


def measure(run: Path) -> Iterator[dict[str, Any]]:
    """A row per scheme and seed."""
    checkpoint = load_checkpoint(run)
    oracle, capacity = checkpoint.model.oracle(), checkpoint.card.config.capacity
    cases = []
    for seed in range(SEEDS):
        tokens = sample_tokens(checkpoint.card, np.random.default_rng(seed), SEQUENCES, min(capacity or 256, 256))
        cases.append((seed, tokens, forward_with_streams(oracle, tokens)[0]))
    with tempfile.TemporaryDirectory() as folder:
        for scheme, bundle in quantized_bundles(run, Path(folder)):
            for seed, tokens, expected in cases:
                yield {"model": checkpoint.card.config.describe(), "scheme": scheme, "seed": seed} | dataclasses.asdict(
                    fits_of(bundle, tokens, expected)
                )


def main() -> None:
    """Measure all; print the worst of each scheme."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for number, run in enumerate(options.runs):
        rows += [{"run": number, **row} for row in measure(run)]
        print(f"{run}: {len(rows)} rows so far", flush=True)
        write_json(options.json, {"environment": describe_environment(), "sequences": SEQUENCES, "rows": rows})
    print(f"{'scheme':20} {'|scale - 1|':>12} {'|offset|':>10}   largest over all models and seeds")
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        own = [row for row in rows if row["scheme"] == scheme]
        scale, offset = (max(abs(row[name] - shift) for row in own) for name, shift in (("scale", 1), ("offset", 0)))
        print(f"{scheme:20} {scale:12.1e} {offset:10.1e}")


if __name__ == "__main__":
    main()
