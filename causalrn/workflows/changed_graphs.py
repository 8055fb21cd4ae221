"""ONNX graphs that other tools have changed: what they read, what they lost, and what is in them now. Needs onnx."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from causalrn.bundle.disk.leftovers import is_plain_name, temporary_folder
from causalrn.bundle.disk.reading import read_input
from causalrn.bundle.graph_files import graph_entries
from causalrn.bundle.manifest import ORT_SUFFIX, Graph, Manifest
from causalrn.errors import BundleError
from causalrn.export.onnx_exporter import export_onnx
from causalrn.training.checkpoint import Checkpoint

_MOST_GRAPH_BYTES = (1 << 31) - 1
"""Of a graph with all that is inside it: more than protobuf holds is no graph."""
_UNREAD_BYTES = 1 << 20
"""Of a file of weights that graphs need not read: what alignment and tools leave."""


def read_graph(path: Path) -> onnx.ModelProto:
    """A graph without the weights that lie beside it.

    Raises:
        BundleError: it is none.
    """
    content = read_input(path, "export the bundle again", BundleError, _MOST_GRAPH_BYTES)
    try:
        return onnx.load_model_from_string(content)
    except Exception:  # protobuf's own class: it ships no types
        raise BundleError(f"{path}: not an ONNX graph: copy it again, or export the bundle again") from None


def external_files(path: Path) -> dict[str, int]:
    """Files beside a graph that hold its weights, and how many bytes of each it reads, at most.

    Raises:
        BundleError: no graph, or weights somewhere else than beside it.
    """
    names: dict[str, int] = {}
    if path.suffix == ORT_SUFFIX:
        check_size(path, _MOST_GRAPH_BYTES)
        return names
    for tensor in read_graph(path).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in place:
            item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            end = int(place.get("offset", 0)) + math.prod(tensor.dims) * item
            names[place["location"]] = max(end, names.get(place["location"], 0))
    if others := sorted(name for name in names if not is_plain_name(name)):
        raise BundleError(f"{path}: its weights are in {others[0]!r}, not beside it: save them in the bundle's folder")
    return names


def check_size(path: Path, read_bytes: int) -> None:
    """Refuse a file that is far larger than what is read of it.

    Raises:
        BundleError: it is.
    """
    if path.stat().st_size > read_bytes + _UNREAD_BYTES:
        raise BundleError(f"{path}: far larger than what is read of it: save it again")


def restore_entries(path: Path, manifest: Manifest, name: str) -> tuple[bool, int]:
    """Write what the manifest says into a graph where it is missing; whether it was, and the graph's opset."""
    model, wanted = read_graph(path), graph_entries(manifest, name)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    present = {entry.key: entry.value for entry in model.metadata_props}
    if all(present.get(key) == value for key, value in wanted.items()):
        return False, opset
    onnx.helper.set_model_props(model, present | wanted)
    path.write_bytes(model.SerializeToString())
    return True, opset


def value_names(path: Path) -> set[str]:
    """Names of all values that a graph computes or takes."""
    graph = read_graph(path).graph
    return {name for node in graph.node for name in node.output} | {value.name for value in graph.input}


def node_changes(
    folder: Path, manifest: Manifest, graphs: Mapping[str, Graph], checkpoint: Checkpoint
) -> dict[str, dict[str, int]]:
    """By graph and operator, how many more nodes there are than in a fresh export: see Resealing.nodes."""
    now = {name: graph.file for name, graph in graphs.items() if not graph.file.endswith(ORT_SUFFIX)}
    if manifest.quantization is not None or not now:
        return {}
    state, changes = manifest.state, {}
    with temporary_folder() as fresh:
        export_onnx(
            checkpoint,
            fresh,
            pool=state.pool if state.has_pool else "growing",
            capacity=state.capacity,
            present=state.gives_fixed_pools,
            opset=manifest.opset or 0,
            index_type=manifest.index_type,
        )
        for name, file in now.items():
            after = Counter(node.op_type for node in read_graph(folder / file).graph.node)
            before = Counter(node.op_type for node in read_graph(fresh / f"{name}.onnx").graph.node)
            after.subtract(before)
            changes[file] = {operator: count for operator, count in sorted(after.items()) if count}
    return {file: operators for file, operators in changes.items() if operators}
