"""Export a recurrent model that users bring to ONNX: its step, and its prefill where it has one.

The graphs are traced from the functions themselves; nothing here adds mathematics. A fresh state may hold anything in
PyTorch; in a graph zeros at position 0 stand for it, as everywhere: there the graph takes the state that it was given
when it was exported.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from causalrn.bundle.graph_files import describe_graph, save_graphs, strip_leftovers
from causalrn.bundle.manifest import Graph, Manifest
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import ConfigError, InputError
from causalrn.export.graph_tracing import quiet_exporter
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_probe import StateProbe
from causalrn.model.own.step_cell import StepCell
from causalrn.training.card import ModelCard

OPSETS = tuple(range(18, 24))
_PREFILL_CHUNK = 64
_ROWS, _BATCH, _TIME = 6, 3, 4
"""Sizes that no axis of a model is likely to have by chance; all of them stay open."""
_FLOATS = ("float32", "float16", "int64", "int32", "int16", "uint8", "int8", "bool", "float64")


class GraphCell(nn.Module):
    """A step or prefill as graphs have it: zeros at position 0 are a fresh state.

    Args:
        cell: in float32.
    """

    def __init__(self, cell: StepCell) -> None:
        super().__init__()
        self.cell = cell
        self._starts: list[str | None] = []
        for place, (entry, value) in enumerate(zip(cell.spec.tensors, cell.fresh(1), strict=True)):
            is_zero = not value.numel() or not bool(value.to(torch.float64).abs().sum())
            self._starts.append(None if entry.is_pool or is_zero else f"start_{place}")
            if self._starts[-1] is not None:
                self.register_buffer(f"start_{place}", value)

    def forward(self, tokens: Tensor, position: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`StepCell.forward`."""
        given = [
            tensor if name is None else torch.where(position == 0, getattr(self, name).expand_as(tensor), tensor)
            for name, tensor in zip(self._starts, state, strict=True)
        ]
        logits, *outputs = self.cell(tokens, position, *given)
        return logits.float(), *[output.clone() for output in outputs]


def export_own_model(
    forms: RecurrentForms, probe: StateProbe, card: ModelCard, sha256: str, folder: Path, opset: int
) -> Manifest:
    """Write the graphs and the weights file that they share into an existing folder.

    Args:
        forms: in float32, in evaluation mode.
        probe: of its state, which :func:`causalrn.model.own.state_probe.check_usable` takes.
        sha256: of the weights.
        opset: one of :data:`OPSETS`.

    Returns:
        The manifest, its files not hashed yet.

    Raises:
        ConfigError: an opset that does not fit.
        InputError: a function that PyTorch cannot trace, or a state of a type that graphs do not have.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset} is not supported: choose one of {', '.join(map(str, OPSETS))}")
    for tensor in probe.spec.tensors:
        if tensor.dtype not in _FLOATS:
            raise InputError(f"{tensor.name} is {tensor.dtype}, which numpy has not: carry it in float32 or float16")
    graphs = {"step": Graph("step.onnx", 0)}
    if forms.prefill is not None:
        graphs["prefill"] = Graph("prefill.onnx", 0)
    manifest = Manifest(
        **card.fields(),
        state=probe.spec,
        target="onnx",
        graphs=graphs,
        opset=opset,
        prefill_chunk=_PREFILL_CHUNK if forms.prefill is not None else 1,
        checkpoint_sha256=sha256,
        created_with={name: version(name) for name in ("causalrn", "torch", "onnx", "onnxscript")},
        streams=(),
    )
    cell = GraphCell(StepCell(forms, probe.tree, probe.spec)).eval()
    models = {}
    for name, graph in graphs.items():
        model = models[graph.file] = _trace(cell, probe.spec, name, opset)
        strip_leftovers(model)
        describe_graph(model, manifest, name)
    save_graphs(models, folder, checked=True)
    return manifest


def _trace(cell: GraphCell, spec: StateSpec, name: str, opset: int) -> ir.Model:
    tokens, position, state, shapes = _example(cell, spec, 1 if name == "step" else _TIME)
    names = ["tokens", "position", *(tensor.input for tensor in spec.tensors)]
    outputs = ["logits", *(tensor.output for tensor in spec.tensors)]
    try:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                cell,
                (tokens, position, *state),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=names,
                output_names=outputs,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # whatever tracing meets
        words = " ".join(str(error).split())
        raise InputError(
            f"`{name}` cannot be traced by torch.onnx.export ({type(error).__name__}): {words[:300]}"
        ) from error
    assert program is not None
    model: ir.Model = program.model
    _name_all(model, names, outputs)
    _name_weights(model, cell.cell.behind)
    return model


def _example(cell: GraphCell, spec: StateSpec, time: int) -> tuple[Tensor, Tensor, list[Tensor], tuple[Any, ...]]:
    """Arguments of a call, and which of their axes are open."""
    dims: dict[Any, Any] = {"B": torch.export.Dim("B", min=2, max=1 << 20)}
    if spec.has_pool:
        dims["t"] = torch.export.Dim("t", min=2, max=1 << 30)
    token_dims = {0: dims["B"]}
    if time > 1:
        token_dims[1] = torch.export.Dim("T", min=2, max=1 << 20)
    types = [tensor.dtype for tensor in cell.cell.fresh(1)]
    state = [
        torch.zeros(tensor.given(batch=_BATCH, rows=_ROWS), dtype=dtype)
        for tensor, dtype in zip(spec.tensors, types, strict=True)
    ]
    state_dims = tuple({axis: dims[d] for axis, d in enumerate(tensor.shape) if d in dims} for tensor in spec.tensors)
    tokens = torch.zeros(_BATCH, time, dtype=torch.int64)
    return tokens, torch.tensor(_ROWS), state, (token_dims, None, state_dims)


def _name_all(model: ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Names in order: the exporter may have chosen others where a value goes in and comes out as it is."""
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        if len(values) != len(names):
            raise InputError(f"a traced graph has {len(values)} inputs or outputs, expected {len(names)}")
        for value in values:
            value.name = f"{value.name}.traced"
        for value, name in zip(values, names, strict=True):
            value.name = name


def _name_weights(model: ir.Model, modules: nn.ModuleList) -> None:
    """Weights as the model calls them, those that tracing has transposed, too."""
    transposed = {}
    for module in modules:
        for name, value in module.state_dict().items():
            if value.ndim == 2 and value.dtype == torch.float32:
                transposed[_content(value.t())] = name
    for value in list(model.graph.initializers.values()):
        tensor, name = value.const_value, value.name or ""
        if name.startswith("cell.behind."):
            wanted = name.removeprefix("cell.behind.").partition(".")[2]
        elif tensor is not None and len(tensor.shape) == 2 and tensor.dtype == ir.DataType.FLOAT:
            wanted = transposed.get(_content(torch.from_numpy(tensor.numpy().copy())), "")
        else:
            continue
        if wanted and wanted not in model.graph.initializers:
            del model.graph.initializers[name]
            value.name = wanted
            model.graph.register_initializer(value)


def _content(value: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).digest()
