"""Export a recurrent model that users bring to ONNX: its step, and its prefill where it has one.

The graphs are traced from the functions themselves; nothing here adds mathematics. A fresh state may hold anything in
PyTorch; in a graph zeros at position 0 stand for it, as everywhere: there the graph takes the state that it was given
when it was exported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from causalrn.bundle.graph_files import describe_graph, save_graphs, strip_leftovers
from causalrn.bundle.manifest import Graph, Manifest
from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import ConfigError, FallbackWarning, InputError
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
    forms: RecurrentForms,
    probe: StateProbe,
    card: ModelCard,
    sha256: str,
    folder: Path,
    opset: int,
    *,
    single_file: bool = False,
) -> Manifest:
    """Write the graphs and the weights file that they share into an existing folder.

    Args:
        forms: in float32, in evaluation mode.
        probe: of its state, which :func:`causalrn.model.own.state_probe.check_usable` takes.
        sha256: of the weights.
        opset: one of :data:`OPSETS`.
        single_file: weights inside each graph.

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
    cell = GraphCell(StepCell(forms, probe.tree, probe.spec)).eval()
    models = {"step": _trace(cell, probe.spec, "step", opset)}
    if forms.prefill is not None:
        try:
            models["prefill"] = _trace(cell, probe.spec, "prefill", opset)
        except InputError as error:  # a step is enough: it takes prompts token by token
            warnings.warn(f"{error}: exported without it", FallbackWarning, stacklevel=2)
    files = {name: f"{name}.onnx" for name in models}
    state = give_rows(list(models.values()), probe.spec)
    manifest = Manifest(
        **card.fields(),
        state=state,
        target="onnx",
        graphs={name: Graph(file, 0) for name, file in files.items()},
        opset=opset,
        prefill_chunk=_PREFILL_CHUNK if "prefill" in models else 1,
        checkpoint_sha256=sha256,
        created_with={name: version(name) for name in ("causalrn", "torch", "onnx", "onnxscript")},
        streams=(),
    )
    for name, model in models.items():
        strip_leftovers(model)
        describe_graph(model, manifest, name)
    save_graphs({files[name]: model for name, model in models.items()}, folder, checked=True, single_file=single_file)
    return manifest


def give_rows(models: list[ir.Model], spec: StateSpec) -> StateSpec:
    """Graphs that append rows to time-major caches give these rows alone, so that a runtime writes them in place.

    A cache can be taken for a pool where every graph makes its next value by Concat(past, rows) along the first axis,
    the batch is the second, and nothing else can have touched the rows that were there. All caches have to be such.

    Returns:
        The state contract of the graphs: growing pools, or the one that was given.
    """
    growing = [tensor for tensor in spec.tensors if tensor.is_pool]
    found = [[_appended_rows(model, tensor) for tensor in growing] for model in models]
    if not growing or any(None in rows or len(set(rows)) < len(rows) for rows in found):
        return spec
    changed = {tensor.name: dataclasses.replace(tensor, update="append", input="", output="") for tensor in growing}
    for model, of_model in zip(models, found, strict=True):
        outputs = {value.name: index for index, value in enumerate(model.graph.outputs)}
        for tensor, rows in zip(growing, of_model, strict=True):
            assert rows is not None
            index = outputs[tensor.output]
            model.graph.outputs[index].name = f"{tensor.output}.whole"
            model.graph.outputs[index] = rows
            rows.name = changed[tensor.name].output
    return StateSpec("growing", tuple(changed.get(tensor.name, tensor) for tensor in spec.tensors))


def _appended_rows(model: ir.Model, tensor: StateTensor) -> ir.Value | None:
    """The rows that a graph appends to a cache; None where it does something else with it."""
    if (tensor.growth_axis, tensor.batch_axis) != (0, 1):
        return None
    output = next(value for value in model.graph.outputs if value.name == tensor.output)
    node = output.producer()
    while node is not None and node.op_type == "Identity":
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2 or node.attributes.get_int("axis") != 0:
        return None
    past, rows = node.inputs
    is_past = past is not None and past.is_graph_input() and past.name == tensor.input
    return rows if is_past and rows is not None and not rows.is_graph_input() and not rows.is_graph_output() else None


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
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # it is written for coloured terminals
        words = " ".join(plain.split())
        raise InputError(
            f"`{name}` cannot be traced by torch.onnx.export ({type(error).__name__}): {words[:300]}"
        ) from error
    assert program is not None
    model: ir.Model = program.model
    _name_all(model, names, outputs)
    _check_open(model, shapes, name)
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


def _check_open(model: ir.Model, shapes: tuple[Any, ...], name: str) -> None:
    """Refuse a graph for the sizes of the example alone.

    Raises:
        InputError: an axis that was to stay open has a fixed size: the function's code depends on it.
    """
    tokens, position, state = shapes
    for value, open_axes in zip(model.graph.inputs, (tokens, position or {}, *state), strict=True):
        for axis, dim in open_axes.items():
            if value.shape is not None and isinstance(value.shape[axis], int):
                what = {"B": "sequences", "t": "rows", "T": "tokens"}[dim.__name__]
                raise InputError(f"`{name}` was traced for one number of {what} only: its code depends on that number")


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
    taken = {value.name for node in model.graph for value in node.outputs}
    taken |= {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for value in list(model.graph.initializers.values()):
        tensor, name = value.const_value, value.name or ""
        if name.startswith("cell.behind."):
            wanted = name.removeprefix("cell.behind.").partition(".")[2]
        elif tensor is not None and len(tensor.shape) == 2 and tensor.dtype == ir.DataType.FLOAT:
            wanted = transposed.get(_content(torch.from_numpy(tensor.numpy().copy())), "")
        else:
            continue
        wanted = f"weight.{wanted}" if wanted in taken else wanted  # a parameter may be called as an input is
        if wanted and wanted not in model.graph.initializers:
            del model.graph.initializers[name]
            value.name = wanted
            model.graph.register_initializer(value)


def _content(value: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).digest()
