"""The ONNX graphs of a bundle as files: one model each, and one file with the weights that they share. Needs onnx."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.disk.reading import open_input
from causalrn.bundle.json_values import json_text, to_json
from causalrn.bundle.manifest import MANIFEST_VERSION, Manifest
from causalrn.errors import BundleError, ConfigError

_EXTERNAL_BYTES = 1024
_ALIGNMENT = 64
_MOST_BYTES = 2_000_000_000


def load_graphs(bundle: Bundle) -> dict[str, ir.Model]:
    """The graphs by the name of their file, weights in memory."""
    files = (graph.file for graph in bundle.manifest.graphs.values())
    return {file: ir.serde.deserialize_model(load_graph(bundle, file)) for file in files}


def load_graph(bundle: Bundle, file: str) -> onnx.ModelProto:
    """A graph with its weights in memory, by the name of its file.

    Their hashes are the bundle's, wherever links lead: onnx itself refuses weights that are a link, or have two names.

    Raises:
        BundleError: weights that the bundle does not have, or not as many bytes of them.
        DecodeError: of protobuf, no ONNX graph.
    """
    model = onnx.load(bundle.file(file), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        try:
            tensor.raw_data = _read_weights(bundle, {entry.key: entry.value for entry in tensor.external_data})
        except (LookupError, ValueError):
            raise BundleError(
                f"{bundle.path / file}: the weights of {tensor.name} are cut short or missing: export the bundle again"
            ) from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def _read_weights(bundle: Bundle, place: Mapping[str, str]) -> bytes:
    """The bytes of a tensor, from where its graph says that they are.

    Raises:
        BundleError: a file that the bundle does not have.
        LookupError, ValueError: a place that is not in the file.
    """
    offset, length = int(place.get("offset", 0)), int(place["length"])
    with open_input(bundle.file(place["location"]), "export the bundle again", BundleError) as weights:
        if min(offset, length) < 0 or offset + length > weights.seek(0, io.SEEK_END):
            raise ValueError("not in the file")
        weights.seek(offset)
        return weights.read(length)


def save_graphs(models: Mapping[str, ir.Model], folder: Path, *, checked: bool, single_file: bool = False) -> None:
    """Write graphs and weights; the models refer to the weights' file from then on.

    Args:
        models: by the name of their file.
        checked: by onnx's checker, which knows no operations of onnxruntime's own.
        single_file: keep the weights inside each graph, and write no file of them.

    Raises:
        ConfigError: weights that a single file cannot hold.
    """
    if single_file:
        _check_sizes(models)
    else:
        _share_weights(models, folder / WEIGHTS_FILE)
    for file, model in models.items():
        ir.save(model, folder / file)
        if checked:
            onnx.checker.check_model(folder / file)


def strip_leftovers(model: ir.Model) -> None:
    """Remove what tracing and quantizing leave behind: it holds paths of the machine and changes from run to run."""
    graph = model.graph
    ClearMetadataAndDocStringPass()(model)  # of the graph and its nodes
    results = [value for node in graph for value in node.outputs]
    constants = list(graph.initializers.values())
    holders: list[ir.Model | ir.Value] = [model, *graph.inputs, *results, *constants]
    for holder in holders:
        holder.metadata_props.clear()
        holder.doc_string = None
    for value in (*results, *constants):
        if not value.is_graph_output():
            value.type = value.shape = None
    for value in constants:
        tensor = value.const_value
        if tensor is not None and (tensor.doc_string or tensor.metadata_props):
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    model.functions.clear()


def describe_graph(model: ir.Model, manifest: Manifest, name: str) -> None:
    """Write the state contract into the graph called `name` itself, for servers that see no manifest."""
    model.producer_name, model.producer_version = "causalrn", version("causalrn")
    model.graph.name = f"causalrn_{name}"
    model.metadata_props.clear()
    model.metadata_props.update(graph_entries(manifest, name))


def graph_entries(manifest: Manifest, name: str) -> dict[str, str]:
    """The metadata of the graph called `name`: the state contract, and what model it is."""
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
    return entries


def _check_sizes(models: Mapping[str, ir.Model]) -> None:
    """Refuse weights beyond what a protobuf message can hold."""
    for file, model in models.items():
        tensors = (value.const_value for value in model.graph.initializers.values())
        size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        if size > _MOST_BYTES:
            raise ConfigError(
                f"{file} would hold {size:,} bytes of weights, a single file holds 2 GB: leave them beside"
            )


def _share_weights(models: Mapping[str, ir.Model], path: Path) -> None:
    """Move constants of a kilobyte or more into one file, each content once, aligned for memory mapping."""
    places: dict[bytes, int] = {}
    with path.open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _EXTERNAL_BYTES:
                    continue
                content = tensor.tobytes()
                key = hashlib.sha256(content).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[key] = file.tell()
                    file.write(content)
                value.const_value = ir.ExternalTensor(
                    path.name,
                    places[key],
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                    base_dir=path.parent,
                )
