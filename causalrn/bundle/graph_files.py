"""The ONNX graphs of a bundle as files: one model each, and one file with the weights that they share. Needs onnx."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import json_text, to_json
from causalrn.bundle.manifest import MANIFEST_VERSION, Manifest

WEIGHTS_FILE = "weights.bin"
_EXTERNAL_BYTES = 1024
_ALIGNMENT = 64
_CONTENT_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data")


def load_graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    """The graphs by the name of their file, weights included."""
    return {graph.file: onnx.load(bundle.file(graph.file)) for graph in bundle.manifest.graphs.values()}


def save_graphs(models: Mapping[str, onnx.ModelProto], folder: Path, *, checked: bool) -> None:
    """Write graphs and weights; `checked` by onnx's checker, which knows no operations of onnxruntime's own."""
    _share_weights(models, folder / WEIGHTS_FILE)
    for file, model in models.items():
        onnx.save(model, folder / file)
        if checked:
            onnx.checker.check_model(folder / file)


def strip_leftovers(model: onnx.ModelProto) -> None:
    """Remove what tracing and quantizing leave behind: it holds paths of the machine and changes from run to run."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for message in (model, model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.ClearField("functions")


def describe_graph(model: onnx.ModelProto, manifest: Manifest, name: str) -> None:
    """Write the state contract into the graph called `name` itself, for servers that see no manifest."""
    model.producer_name, model.producer_version = "causalrn", version("causalrn")
    model.graph.name = f"causalrn_{name}"
    card = {"model": manifest.model, "alphabet": manifest.alphabet, "task": manifest.task}
    entries = {
        "causalrn.manifest_version": str(MANIFEST_VERSION),
        "causalrn.graph": name,
        "causalrn.pad_rows": str(manifest.graphs[name].pad_rows),
        "causalrn.card": json_text(card).strip(),
        "causalrn.state": json_text(to_json(manifest.state)).strip(),
    }
    if manifest.quantization is not None:
        entries["causalrn.quantization"] = json_text(to_json(manifest.quantization)).strip()
    onnx.helper.set_model_props(model, entries)


def _share_weights(models: Mapping[str, onnx.ModelProto], path: Path) -> None:
    """Move initializers of a kilobyte or more into one file, each content once, aligned for memory mapping."""
    places: dict[bytes, int] = {}
    with path.open("wb") as file:
        for model in models.values():
            for tensor in model.graph.initializer:
                content = _content(tensor)
                if len(content) < _EXTERNAL_BYTES:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[key] = file.tell()
                    file.write(content)
                for field in _CONTENT_FIELDS:
                    tensor.ClearField(field)
                tensor.raw_data = b""  # set_external_data wants the field to be there
                set_external_data(tensor, path.name, offset=places[key], length=len(content))
                tensor.ClearField("raw_data")


def _content(tensor: onnx.TensorProto) -> bytes:
    """The elements as they lie in a file: packed, where they are narrower than a byte."""
    if not tensor.HasField("raw_data"):
        tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))
    return tensor.raw_data
