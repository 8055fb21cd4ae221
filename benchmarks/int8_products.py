"""Three ways to store the weights of int8 products for onnxruntime: what each costs in time.

    python benchmarks/int8_products.py --json docs/int8_products.json [--sizes 192 768]

"7 bits" is what `quantize` writes (int8, -64 to 64); "8 bits" the same with -127 to 127, which saturates on x86 without
VNNI; "unsigned" the 8 bits as unsigned bytes around a zero point of 128. Random linear cells, steps and a prefill of 64
tokens, all in turns; medians of processor time, and ratios by turn to "8 bits".
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models import unit_gain_model
from onnx import numpy_helper
from onnxruntime.quantization import quant_utils
from reporting import write_json

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.calibration.rollouts import Prompts
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.calibration.table import calibrate
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.session import Session
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.export_targets import export_bundle

TURNS, DEPTH, STEPS, PREFILL = 15, 24, 24, 64
TOKENS = np.random.default_rng(0).integers(0, 29, (1, PREFILL))
_INT8 = onnx.TensorProto.INT8


def write_eight_bits(source: Bundle, folder: Path, scheme: Scheme) -> Bundle:
    """Quantize with the whole range of int8."""
    reduced = quant_utils.ONNX_INT_TYPE_REDUCED_RANGE
    kept, reduced[_INT8] = reduced[_INT8], quant_utils.ONNX_INT_TYPE_SYMMETRIC_RANGE[_INT8]
    try:
        return write_quantized(source, folder, scheme, golden=False)
    finally:
        reduced[_INT8] = kept


def make_unsigned(folder: Path, bundle: Bundle) -> Bundle:
    """Store weights [k, n] of a bundle as unsigned bytes, the same numbers, in place."""
    for graph in {graph.file for graph in bundle.manifest.graphs.values()}:
        model = onnx.load(folder / graph)
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            is_zero_point = tensor.name.endswith("_zero_point") and ".input" not in tensor.name
            if tensor.data_type == _INT8 and (is_zero_point or tensor.name.endswith("_quantized")):
                moved = (array.astype(np.int16) + 128).astype(np.uint8)
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        onnx.save(model, folder / graph)
    return seal_bundle(folder, bundle.manifest)


def time_steps(session: Session) -> float:
    """Processor time of a step in the middle, in microseconds: a busy machine does not count."""
    session.reset(1)
    session.prefill(TOKENS[:, :DEPTH])
    began = time.process_time()
    for position in range(DEPTH, DEPTH + STEPS):
        session.step(TOKENS[:, position])
    return 1e6 * (time.process_time() - began) / STEPS


def time_prefill(session: Session) -> float:
    """The same of a prefill."""
    session.reset(1)
    began = time.process_time()
    session.prefill(TOKENS)
    return 1e6 * (time.process_time() - began)


def make_bundles(size: int, blocks: int, folder: Path) -> dict[str, Bundle]:
    """By scheme and way, of one model."""
    config = CausalRNConfig(
        vocabulary=29, embedding=size, hidden=size, blocks=blocks, capacity=PREFILL, readout="linear"
    )
    save_checkpoint(folder / "run", unit_gain_model(config), ModelCard(config), {})
    source = export_bundle(folder / "run", folder / "float32", pool="growing", capacity=None, opset=23)
    limits = calibrate(source, Prompts.of_tokens(TOKENS[:, :12], 16, "random")).limits("minmax")
    bundles = {"float32": source}
    for scheme in (Scheme("w8a8-dynamic"), Scheme("w8a8")):
        chosen = dataclasses.replace(scheme, limits=limits if scheme.name == "w8a8" else {})
        for way in ("8 bits", "7 bits", "unsigned"):
            (place := folder / f"{scheme.name} {way}").mkdir()
            write: Callable[[Bundle, Path, Scheme], Bundle] = write_eight_bits
            if way == "7 bits":
                bundles[place.name] = write_quantized(source, place, chosen, golden=False)
                continue
            bundle = write(source, place, chosen)
            bundles[place.name] = make_unsigned(place, bundle) if way == "unsigned" else bundle
    return bundles


def measure(size: int, blocks: int) -> list[dict[str, Any]]:
    """A row per bundle and workload."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        sessions = {name: open_bundle(bundle) for name, bundle in make_bundles(size, blocks, Path(place)).items()}
        for workload, timed in (("step", time_steps), (f"prefill of {PREFILL}", time_prefill)):
            turns = [{name: timed(session) for name, session in sessions.items()} for _ in range(TURNS + 1)][1:]
            for name in sessions:
                times = np.array([turn[name] for turn in turns])
                beside = "float32" if name == "float32" else f"{name.split()[0]} 8 bits"
                ratios = np.percentile(times / np.array([turn[beside] for turn in turns]), [25, 50, 75]).round(3)
                row = {"size": size, "blocks": blocks, "workload": workload, "bundle": name}
                rows.append({**row, "median_us": float(np.median(times)), "ratio_quartiles": ratios.tolist()})
                print(f"E={size} {workload:14} {name:24} {np.median(times):9.0f} us  {ratios}", flush=True)
    return rows


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 768])
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in measure(size, 12 if size < 512 else 6)]
    write_json(options.json, {"environment": describe_environment(), "turns": TURNS, "rows": rows})


if __name__ == "__main__":
    main()
