"""The cases of compatibility.py: kinds of bundles, their graphs and tokens for the runner, the oracle's logits."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from compatibility_runtimes import Conversion
from models import unit_gain_model

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint

CAPACITY = 48
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocabulary": 29, "embedding": 64, "blocks": 4, "capacity": CAPACITY},
    "paper": {"vocabulary": 29, "embedding": 192, "blocks": 12, "capacity": 128},
}


@dataclass(frozen=True)
class Kind:
    """A kind of bundle: the model's options beside its size, and those of the export."""

    model: dict[str, Any]
    export: dict[str, Any]
    size: str = "tiny"


FIXED = {"pool": "fixed"}
KINDS = {
    "exact, growing": Kind({}, {}),
    "exact, fixed": Kind({}, FIXED),
    "exact, fixed, whole pools": Kind({}, FIXED | {"present": True}),
    "exact, concat": Kind({}, {"pool": "concat"}),
    "exact, 2 heads": Kind({"heads": 2}, {}),
    "exact, RMS": Kind({"norm": "rms"}, {}),
    "exact, int32": Kind({}, {"index_type": "int32"}),
    "linear": Kind({"readout": "linear"}, {}),
    "plain": Kind({"readout": "plain"}, {}),
    "Transformer": Kind({"attention": "softmax", "heads": 2}, {}),
    "Linear Transformer": Kind({"attention": "linear", "heads": 2}, {}),
    "exact, fixed, paper": Kind({}, FIXED, "paper"),
    "linear, paper": Kind({"readout": "linear"}, {}, "paper"),
}
PROFILES: dict[str, dict[str, Any]] = {"default": {}, "portable": {"profile": "portable"}}
CONVERTED = "converted"
"""Stands in a profile's place for bundles of targets whose graphs another package converts."""
NOT_CONVERTED = ("exact, fixed, whole pools", "exact, concat", "exact, int32")
"""Kinds that only ONNX bundles have."""


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The oracle's logits of a case [T, V], and what each position may be off by [T]."""

    logits: np.ndarray[Any, np.dtype[np.float64]]
    bounds: np.ndarray[Any, np.dtype[np.float64]]


def model_of(kind: Kind) -> SequenceModel:
    size = SIZES[kind.size]
    if "attention" in kind.model:
        return unit_gain_model(TransformerConfig(**size, hidden=size["embedding"], **kind.model))
    return unit_gain_model(CausalRNConfig(**size, hidden=size["embedding"], **kind.model))


def write_case(folder: Path, name: str, profile: str, **options: Any) -> Expected:
    """Graphs, names and tokens for the runner in "case", the checkpoint in "run"; the oracle's logits."""
    numbers = folder / "expected.npz"
    if numbers.exists():
        with np.load(numbers) as known:
            return Expected(known["logits"], known["bounds"])
    kind, model = KINDS[name], model_of(KINDS[name])
    save_checkpoint(folder / "run", model, ModelCard(model.config), {})
    asked = kind.export | PROFILES[profile] | options
    bundle = causalrn.export(folder / "run", output=folder / "case", **asked).bundle
    tokens = np.random.default_rng(0).integers(0, 29, (1, SIZES[kind.size]["capacity"]))
    add_tokens(folder / "case", tokens[0], bundle)
    reference = CheckpointOracle(model, ModelCard(model.config)).reference(tokens, (1,))
    np.savez(numbers, logits=reference.logits[0], bounds=reference.bounds.logits)
    return Expected(reference.logits[0], reference.bounds.logits)


def convert_case(folder: Path, case: Path, conversion: Conversion, environment: Path, pool: str | None) -> str:
    """The same checkpoint as a bundle of a conversion's target, in "case"; what the exporter says where it cannot."""
    if (folder / "case.json").exists():
        return ""
    command = [str(environment / "bin" / "python"), "-m", "causalrn", "export", str(case / "run"), "-o", str(folder)]
    command += ["--target", conversion.target]
    command += ["--backend", conversion.backend] if conversion.backend else []
    command += ["--pool", pool] if pool else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return " ".join(done.stderr.split())[-400:]
    add_tokens(folder, np.load(case / "case" / "tokens.npy"), Bundle.open(folder))
    return ""


def add_tokens(folder: Path, tokens: np.ndarray[Any, Any], bundle: Bundle) -> None:
    """What the runner reads beside a bundle's graphs."""
    np.save(folder / "tokens.npy", tokens)
    (folder / "tokens.json").write_text(json.dumps(tokens.tolist()))
    (folder / "case.json").write_text(json.dumps(describe_case(bundle)))


def describe_case(bundle: Bundle) -> dict[str, Any]:
    """What the runner has to know of a bundle, for one sequence."""
    manifest, graphs = bundle.manifest, {}
    for role, name in (("step", manifest.graph_for(1, 1)), ("prefill", "prefill")):
        entry = manifest.graphs[name]
        graphs[role] = {"file": entry.file, "pad_rows": entry.pad_rows, **names_of(bundle, name)}
    state = []
    for tensor in manifest.state.tensors:
        buffer = list(tensor.given(batch=1, rows=buffer_rows(bundle)))
        state.append({"input": tensor.input, "output": tensor.output, "update": tensor.update, "buffer": buffer})
    most = manifest.prefill_chunk if manifest.target == "litert" else 8  # its graphs have one length
    return {
        "graphs": graphs,
        "state": state,
        "pool": manifest.state.pool if manifest.state.has_pool else "constant",
        "index_type": manifest.index_type,
        "prefill_chunk": min(manifest.prefill_chunk, most),
    }


def names_of(bundle: Bundle, graph: str) -> dict[str, Any]:
    """A graph's own name, and its inputs and outputs in their order."""
    manifest = bundle.manifest
    if manifest.target == "onnx":
        proto = onnx.load(bundle.path / manifest.graphs[graph].file, load_external_data=False).graph
        inputs, outputs = ([value.name for value in values] for values in (proto.input, proto.output))
        return {"graph_name": proto.name, "inputs": inputs, "outputs": outputs}
    tensors = manifest.state.tensors
    return {
        "graph_name": graph if manifest.target == "litert" else "forward",
        "inputs": ["tokens", "position", *(tensor.input for tensor in tensors)],
        "outputs": ["logits", *(tensor.output for tensor in tensors)],
    }


def buffer_rows(bundle: Bundle) -> int:
    """Rows of the buffers that the loop keeps."""
    spec = bundle.manifest.state
    return {"concat": 0, "growing": 1 + (spec.capacity or 0)}.get(spec.pool, spec.capacity or 0)


def pool_of(kind: str) -> str | None:
    """The kind of pool that is asked of a conversion; None for the target's own."""
    return "growing" if kind == "exact, growing" else KINDS[kind].export.get("pool")
