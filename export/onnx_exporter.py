"""Export a checkpoint's cell to ONNX: step and prefill graphs that share one weights file.

The graphs are traced from :class:`causalrn.model.cell.RecurrentCell` by ``torch.onnx.export(dynamo=True)``; nothing
here adds mathematics. What is changed afterwards: RMSNormalization becomes the contrib op of the same meaning below
opset 23, weights move into the shared file, tracing leftovers (source paths among them) go, and the state contract is
written into the metadata.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch

from causalrn.bundle.graph_files import describe_graph, save_graphs, strip_leftovers
from causalrn.bundle.manifest import Graph, Manifest, stream_names
from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import ConfigError
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import ModelConfig, TransformerConfig
from causalrn.model.state import derive_state
from causalrn.training.checkpoint import Checkpoint

OPSETS = (21, 22, 23)
"""RMSNormalization is opset 23; below it the graphs use onnxruntime's SimplifiedLayerNormalization."""

_TRACE_OPSET = 23
_EXAMPLE_ROWS = 6
_IR_VERSIONS = {21: 10, 22: 10, 23: 11}
_PREFILL_CHUNK = {"pool": 16, "sum": 64, "carry+sum": 64, "max+sum": 16}
_ATTENTION_CHUNK = 64
"""Most tokens of a prefill chunk: by state kind, and for pools of keys and values, whose pairs are one number each."""


def export_onnx(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    pool: str = "growing",
    capacity: int | None = None,
    opset: int = 23,
) -> Manifest:
    """Write the graphs and the weights file that they share into an existing folder.

    Args:
        pool, capacity: the state, as in :func:`causalrn.model.state.derive_state`.
        opset: one of :data:`OPSETS`.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: an opset, pool or capacity that does not fit.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset} is not supported: choose one of {', '.join(map(str, OPSETS))}")
    spec = derive_state(checkpoint.card.config, pool, capacity)
    spec.check_useful()
    manifest = _manifest(checkpoint, spec, opset)
    cell = RecurrentCell(checkpoint.folded, spec)
    models = {}
    for name, graph in manifest.graphs.items():
        model = models[graph.file] = _trace(cell, name)
        _name_streams(model, manifest.streams)
        strip_leftovers(model)
        _set_opset(model, opset)
        describe_graph(model, manifest, name)
    save_graphs(models, folder, checked=opset >= _TRACE_OPSET)  # below, a contrib op stands for the RMS norm
    return manifest


def _manifest(checkpoint: Checkpoint, spec: StateSpec, opset: int) -> Manifest:
    config = checkpoint.card.config
    return Manifest(
        **checkpoint.card.fields(),
        state=spec,
        target="onnx",
        graphs=_graphs(spec),
        opset=opset,
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


def _trace(cell: RecurrentCell, graph: str) -> ir.Model:
    """Trace the cell at T = 1 or at any T, at B = 1 or at any B.

    Pool rows are left open, a fixed pool's too, so that a runtime may hand in no more of it than it needs; its step for
    B = 1 has one shape.
    """
    spec, one_token, one_row = cell.spec, graph != "prefill", graph == "step_single"
    pad = spec.step_pad_rows if one_token else 0
    example_batch, example_time = 1 if one_row else 3, 1 if one_token else 4
    dims = {"t": torch.export.Dim("rows" if pad or spec.pool == "fixed" else "t", min=2, max=1 << 30)}
    if not one_row:
        dims["B"] = torch.export.Dim("B", min=2, max=1 << 20)
    token_dims = {0: dims["B"]} if "B" in dims else {}
    if not one_token:
        token_dims[1] = torch.export.Dim("T", min=2, max=1 << 20)
    tokens = torch.zeros(example_batch, example_time, dtype=torch.int64)
    rows = _EXAMPLE_ROWS if cell.capacity is None else min(_EXAMPLE_ROWS, cell.capacity + pad)
    sized = StateTensor.sized if one_row else StateTensor.given
    state = tuple(torch.zeros(sized(tensor, batch=example_batch, rows=rows)) for tensor in spec.tensors)
    open_shapes = [tensor.shape if one_row else tensor.open_shape for tensor in spec.tensors]
    state_dims = tuple({axis: dims[d] for axis, d in enumerate(shape) if d in dims} for shape in open_shapes)
    shapes = (token_dims, None, state_dims)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            cell,
            (tokens, torch.tensor(5), *state),
            dynamo=True,
            opset_version=_TRACE_OPSET,
            dynamic_shapes=shapes,
            input_names=["tokens", "position", *(tensor.input for tensor in spec.tensors)],
            output_names=["logits", *(tensor.output for tensor in spec.tensors)],
            verbose=False,
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about optional packages and its own deprecations: nothing a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_streams(model: ir.Model, names: tuple[str, ...]) -> None:
    """Name the residual stream between blocks, so that `verify` can look at it. Nothing else changes."""
    first, *written = names
    for block, name in enumerate(written):
        inside = [node for node in model.graph if f"blocks.{block}" in _scopes(node)]
        if block == 0:
            stream = inside[0].inputs[0]  # a block begins by normalizing x
            assert stream is not None
            stream.name = first
        inside[-1].outputs[0].name = name  # and ends with x + ...


def _scopes(node: ir.Node) -> tuple[str, ...]:
    """The modules that a traced node comes from, outermost first."""
    return tuple(ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "()")))


def _set_opset(model: ir.Model, opset: int) -> None:
    if opset < _TRACE_OPSET:
        for node in model.graph:
            if node.op_type == "RMSNormalization":
                node.op_type = "SimplifiedLayerNormalization"
    model.opset_imports.clear()
    model.opset_imports[""] = opset
    model.ir_version = _IR_VERSIONS[opset]
