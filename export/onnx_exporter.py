"""Export a checkpoint's cell to ONNX: step and prefill graphs that share one weights file.

The graphs are traced from :class:`causalrn.model.cell.RecurrentCell` by ``torch.onnx.export(dynamo=True)``; nothing
here adds mathematics. What is changed afterwards: what an earlier opset does not have is written with what it has
(opsets.py), weights move into the shared file, tracing leftovers (source paths among them) go, and the state contract
is written into the metadata.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import onnx_ir as ir

from causalrn.bundle.graph_files import describe_graph, save_graphs, strip_leftovers
from causalrn.bundle.manifest import Graph, Manifest, stream_names
from causalrn.bundle.state_spec import StateSpec
from causalrn.export.graph_tracing import block_nodes, trace_cell
from causalrn.export.opsets import TRACE_OPSET, check_opset, set_opset
from causalrn.export.ort_format import convert_to_ort_format
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import ModelConfig, TransformerConfig
from causalrn.model.state import derive_state
from causalrn.training.checkpoint import Checkpoint

_PREFILL_CHUNK = {"pool": 16, "sum": 64, "carry+sum": 64, "max+sum": 16}
_ATTENTION_CHUNK = 64
"""Most tokens of a prefill chunk: by state kind, and for pools of keys and values, whose pairs are one number each."""


class OnnxOptions(TypedDict, total=False):
    """What can be asked of graphs; each has a default.

    Attributes:
        pool, capacity, present: the state, as in :func:`causalrn.model.state.derive_state`.
        opset: one of :data:`causalrn.export.opsets.OPSETS`; 23 by default.
        single_file: weights inside each graph, not in a file that they share.
        index_type: of tokens and position, "int64" by default.
        ort_format: graphs in onnxruntime's own format: see :mod:`causalrn.export.ort_format`.
    """

    pool: str
    capacity: int | None
    present: bool
    opset: int
    single_file: bool
    index_type: Literal["int64", "int32"]
    ort_format: bool


def export_onnx(checkpoint: Checkpoint, folder: Path, **options: Unpack[OnnxOptions]) -> Manifest:
    """Write the graphs and the weights file that they share into an existing folder.

    Args:
        options: :class:`OnnxOptions`.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: an opset, pool or capacity that does not fit, or weights that a single file cannot hold.
    """
    opset, index_type = options.get("opset", TRACE_OPSET), options.get("index_type", "int64")
    check_opset(opset)
    pool, capacity = options.get("pool", "growing"), options.get("capacity")
    spec = derive_state(checkpoint.card.block_config, pool, capacity, present=options.get("present", False))
    spec.check_useful()
    manifest = _manifest(checkpoint, spec, opset, index_type)
    cell = RecurrentCell(checkpoint.folded, spec)
    models = {}
    for name, graph in manifest.graphs.items():
        model = models[graph.file] = trace_cell(cell, name, index_type)
        _name_streams(model, manifest.streams)
        strip_leftovers(model)
        set_opset(model, opset)
        describe_graph(model, manifest, name)
    save_graphs(models, folder, checked=True, single_file=options.get("single_file", False))
    return convert_to_ort_format(folder, manifest) if options.get("ort_format", False) else manifest


def _manifest(checkpoint: Checkpoint, spec: StateSpec, opset: int, index_type: Literal["int64", "int32"]) -> Manifest:
    config = checkpoint.card.block_config
    return Manifest(
        **checkpoint.card.fields(),
        state=spec,
        target="onnx",
        graphs=_graphs(spec),
        opset=opset,
        index_type=index_type,
        prefill_chunk=_prefill_chunk(config),
        checkpoint_sha256=checkpoint.sha256,
        created_with={name: version(name) for name in ("causalrn", "torch", "onnx", "onnxscript")},
        streams=stream_names(config.blocks),
    )


def _prefill_chunk(config: ModelConfig) -> int:
    return _ATTENTION_CHUNK if isinstance(config, TransformerConfig) else _PREFILL_CHUNK[config.state_kind]


def _graphs(spec: StateSpec) -> dict[str, Graph]:
    """The graphs of a bundle: step (T = 1), prefill (any T), and for pools a step for B = 1, which is faster."""
    graphs = {"step": Graph("step.onnx", spec.step_pad_rows), "prefill": Graph("prefill.onnx", 0)}
    if spec.pool in ("growing", "fixed"):
        graphs["step_single"] = Graph("step_single.onnx", spec.step_pad_rows)
    return graphs


def _name_streams(model: ir.Model, names: tuple[str, ...]) -> None:
    """Name the residual stream between blocks, so that `verify` can look at it. Nothing else changes."""
    first, *written = names
    for block, name in enumerate(written):
        inside = block_nodes(model, block)
        if block == 0:
            stream = inside[0].inputs[0]  # a block begins by normalizing x
            assert stream is not None
            stream.name = first
        inside[-1].outputs[0].name = name  # and ends with x + ...
