"""Which runtimes take this toolkit's ONNX graphs, how exact they are, and what they cost. Run it, from anywhere:

    python benchmarks/compatibility.py --environments FOLDER [--only RUNTIME ...] [--json FILE] [--markdown FILE]

It needs `pip install 'causalrn[export]'`, Python's venv, npm for onnxruntime-node, and about an hour the first time:
every runtime is installed, pinned, in an environment of its own in FOLDER, and runs every kind of bundle in a process
of its own, without this toolkit (compatibility_runner.py, .mjs). A step and a prefill graph answer one sequence from a
fresh state to the capacity; logits are compared with the float64 oracle, allowed is the float32 bound of `verify`.
Times are processor time of a step, beside the newest onnxruntime's on the same graph: one process after the other, so
that they say what is twice as slow, not what is a tenth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from compatibility_pages import NEWEST as NEWEST
from compatibility_pages import write_markdown
from models import unit_gain_model
from reporting import write_json

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import Reference
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint

HERE = Path(__file__).parent
TIMEOUT_S = 240
CAPACITY = 40
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocabulary": 29, "embedding": 64, "blocks": 4, "capacity": CAPACITY},
    "paper": {"vocabulary": 29, "embedding": 192, "blocks": 12, "capacity": 128},
}


@dataclass(frozen=True)
class Runtime:
    """A runtime: the runner's name for it, and what is installed."""

    runner: str
    packages: tuple[str, ...]


RUNTIMES = {
    "onnxruntime 1.32.0": Runtime("onnxruntime", ("onnxruntime==1.32.0", "numpy==2.4.6")),
    "onnxruntime 1.15.0": Runtime("onnxruntime", ("onnxruntime==1.15.0", "numpy==1.26.4")),
    "onnxruntime-node 1.30.0": Runtime("node", ("onnxruntime-node@1.30.0",)),
    "onnx.reference 1.23.2": Runtime("onnx.reference", ("onnx==1.23.2", "numpy==2.4.6")),
    "OpenVINO 2026.4.1": Runtime("openvino", ("openvino==2026.4.1", "numpy==2.4.6")),
    "tract 0.23.9": Runtime("tract", ("tract==0.23.9", "numpy==2.4.6")),
    "MNN 3.6.1": Runtime("MNN", ("MNN==3.6.1", "numpy==2.4.6")),
    "IREE 3.13.0": Runtime(
        "IREE", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.20.1", "numpy==2.4.6")
    ),
    "TVM 0.27.0": Runtime("TVM", ("apache-tvm==0.27.0.post1", "onnx==1.20.1", "numpy==2.4.6")),
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
BY_DEFAULT = ("exact, growing", "exact, fixed", "linear", "Transformer")
"""Kinds that the default profile is tried with, too: enough to see what opset 23 changes."""


# --- cases ------------------------------------------------------------------------------------------------------------


def model_of(kind: Kind) -> SequenceModel:
    size = SIZES[kind.size]
    if "attention" in kind.model:
        return unit_gain_model(TransformerConfig(**size, hidden=size["embedding"], **kind.model))
    return unit_gain_model(CausalRNConfig(**size, hidden=size["embedding"], **kind.model))


def write_case(folder: Path, name: str, profile: str) -> Reference:
    """Graphs, names and tokens for the runner; the oracle's logits of the same tokens."""
    kind, model = KINDS[name], model_of(KINDS[name])
    save_checkpoint(folder / "run", model, ModelCard(model.config), {})
    bundle = causalrn.export(folder / "run", output=folder / "case", **kind.export, **PROFILES[profile]).bundle
    tokens = np.random.default_rng(0).integers(0, 29, (1, SIZES[kind.size]["capacity"]))
    np.save(folder / "case" / "tokens.npy", tokens[0])
    (folder / "case" / "tokens.json").write_text(json.dumps(tokens[0].tolist()))
    (folder / "case" / "case.json").write_text(json.dumps(describe_case(bundle)))
    return CheckpointOracle(model, ModelCard(model.config)).reference(tokens, (1,))


def describe_case(bundle: Bundle) -> dict[str, Any]:
    """What the runner has to know of a bundle, for one sequence."""
    manifest, graphs = bundle.manifest, {}
    for role, name in (("step", manifest.graph_for(1, 1)), ("prefill", "prefill")):
        entry = manifest.graphs[name]
        graph = onnx.load(bundle.path / entry.file, load_external_data=False).graph
        graphs[role] = {
            "file": entry.file,
            "graph_name": graph.name,
            "pad_rows": entry.pad_rows,
            "inputs": [value.name for value in graph.input],
            "outputs": [value.name for value in graph.output],
        }
    state = []
    for tensor in manifest.state.tensors:
        rows = 0 if manifest.state.pool == "concat" else (manifest.state.capacity or 0)
        rows += 1 if manifest.state.pool == "growing" else 0
        buffer = list(tensor.given(batch=1, rows=rows))
        state.append({"input": tensor.input, "output": tensor.output, "update": tensor.update, "buffer": buffer})
    pool = manifest.state.pool if manifest.state.has_pool else "constant"
    return {
        "graphs": graphs,
        "state": state,
        "pool": pool,
        "index_type": manifest.index_type,
        "prefill_chunk": min(manifest.prefill_chunk, 8),
    }


# --- environments -----------------------------------------------------------------------------------------------------


def environment_of(name: str, root: Path) -> Path | None:
    """The environment of a runtime, installed once; None where that fails."""
    runtime, folder = RUNTIMES[name], root / name.replace(" ", "-")
    done = folder / "done"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if runtime.runner == "node":
        commands = [["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--silent", *runtime.packages]]
    else:
        python = str(folder / "bin" / "python")
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *runtime.packages],
        ]
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
    done.touch()
    return folder


def run_case(name: str, environment: Path, case: Path, out: Path) -> dict[str, Any]:
    """What a runtime makes of a case: by graph, its phase, error or logits and time."""
    out.mkdir()
    copy = out / "case"
    shutil.copytree(case, copy)  # converters write beside the graph, and one into it
    runner = RUNTIMES[name].runner
    command = [str(environment / "bin" / "python"), str(HERE / "compatibility_runner.py"), runner, str(copy), str(out)]
    if runner == "node":
        shutil.copy(HERE / "compatibility_runner.mjs", environment)
        command = ["node", str(environment / "compatibility_runner.mjs"), str(copy), str(out)]
    ended = ""
    try:
        code = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S).returncode
        ended = f"ended with exit code {code}" if code > 0 else f"ended by signal {-code}" if code else ""
    except subprocess.TimeoutExpired:
        ended = f"no answer in {TIMEOUT_S} s"
    result = out / "result.json"
    entries: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    for graph in ("step", "prefill"):
        entry = entries.setdefault(graph, {"phase": "load"})
        if entry["phase"] != "done":
            entry.setdefault("error", ended or "said nothing")
    return entries


def judge(entries: dict[str, Any], out: Path, reference: Reference) -> None:
    """Add the error of what ran: relative to the largest logit, and as a part of what is allowed."""
    for graph, entry in entries.items():
        if entry["phase"] != "done":
            continue
        if (out / f"{graph}.npy").exists():
            logits = np.load(out / f"{graph}.npy").astype(np.float64)
        else:
            logits = np.array(json.loads((out / f"{graph}.json").read_text())).reshape(reference.logits[0].shape)
        off = np.abs(logits - reference.logits[0]).max(-1)
        off = np.where(np.isfinite(off), off, np.inf)
        entry["error"] = float(off.max() / np.abs(reference.logits).max())
        entry["of_bound"] = float((off / reference.bounds.logits).max())


# --- the table --------------------------------------------------------------------------------------------------------


def measure(runtimes: list[str], environments: dict[str, Path | None]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cases = [(kind, name) for kind in KINDS for name in PROFILES if name == "portable" or kind in BY_DEFAULT]
    with show_progress("cases", len(cases) * len(runtimes)) as advance:
        for kind, profile in cases:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                reference = write_case(folder, kind, profile)
                for index, name in enumerate(runtimes):
                    environment, out = environments[name], folder / str(index)
                    advance(0, f"{kind}, {profile}: {name}")
                    if environment is not None:
                        entries = run_case(name, environment, folder / "case", out)
                        judge(entries, out, reference)
                        rows.append({"kind": kind, "profile": profile, "runtime": name, **entries})
                    advance(1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environments", type=Path, required=True, help="folder for one environment per runtime")
    parser.add_argument("--only", nargs="*", choices=list(RUNTIMES), help="these runtimes")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--markdown", type=Path, help="write docs/compatibility.md there")
    arguments = parser.parse_args()
    names = list(arguments.only or RUNTIMES)
    with show_progress("environments", len(names)) as advance:
        environments = {}
        for name in names:
            environments[name] = environment_of(name, arguments.environments.resolve())
            advance(1, name)
    for name in (name for name, environment in environments.items() if environment is None):
        print(f"{name}: could not be installed here", file=sys.stderr)
    report = {"machine": describe_environment(), "rows": measure(names, environments)}
    report["runtimes"] = {name: list(RUNTIMES[name].packages) for name in names}
    write_json(arguments.json, report)
    if arguments.markdown is not None:
        write_markdown(arguments.markdown, report)


if __name__ == "__main__":
    main()
