"""From a cell to a graph: torch.onnx.export traces two blocks, and what it made of the second is repeated.

All blocks of a cell are the same but for their weights and state. Tracing takes seconds per block, most of it in the
arithmetic on symbolic shapes (torch 2.13); repeating takes none. A cell whose second block is not what the others are
is traced as a whole.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from causalrn.bundle.state_spec import StateTensor
from causalrn.export.opsets import TRACE_OPSET
from causalrn.export.plain_shapes import set_known_shapes
from causalrn.model.cell import RecurrentCell
from causalrn.model.cell_parts import most_rows

_EXAMPLE_ROWS = 6
_MANY = 1 << 20
_TRACED_BLOCKS = 2


def trace_cell(cell: RecurrentCell, graph: str, index_type: str = "int64") -> ir.Model:
    """The graph of a cell's call, its residual stream not named yet.

    Args:
        graph: "step" (T = 1), "step_single" (T = B = 1) or "prefill" (any T).
        index_type: of tokens and position: "int64" or "int32".
    """
    model = _trace_and_repeat(cell, graph, index_type)
    set_known_shapes(model)
    return model


def _trace_and_repeat(cell: RecurrentCell, graph: str, index_type: str) -> ir.Model:
    if len(cell.blocks) <= _TRACED_BLOCKS:
        return trace_whole(cell, graph, index_type)
    model = trace_whole(_with_blocks(cell, _TRACED_BLOCKS), graph, index_type)
    return model if _Repetition(model, cell).repeat() else trace_whole(cell, graph, index_type)


def _with_blocks(cell: RecurrentCell, count: int) -> RecurrentCell:
    """The same cell with its first blocks only."""
    fewer = copy.copy(cell)
    fewer._modules = dict(cell._modules)
    fewer.blocks = nn.ModuleList(list(cell.blocks)[:count])
    fewer.spec = dataclasses.replace(cell.spec, tensors=cell.spec.tensors[: count * _per_block(cell)])
    return fewer


def _per_block(cell: RecurrentCell) -> int:
    return len(cell.spec.tensors) // len(cell.blocks)


def block_nodes(model: ir.Model, block: int) -> list[ir.Node]:
    """The nodes of a block in their order, those without a place of their own among them."""
    nodes = list(model.graph)
    inside = [index for index, node in enumerate(nodes) if f"blocks.{block}" in _scopes(node)]
    return nodes[inside[0] : inside[-1] + 1]


def _scopes(node: ir.Node) -> tuple[str, ...]:
    """The modules that a traced node comes from, outermost first."""
    return tuple(ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "()")))


class _Repetition:
    """Repeats the last traced block of a graph with the weights and the state of those that follow."""

    def __init__(self, model: ir.Model, cell: RecurrentCell) -> None:
        self._graph, self._cell = model.graph, cell
        self._last = _TRACED_BLOCKS - 1
        self._nodes = block_nodes(model, self._last)
        earlier = block_nodes(model, self._last - 1)
        self._enters, self._leaves = earlier[-1].outputs[0], self._nodes[-1].outputs[0]
        self._weights = dict(cell.named_buffers())

    def repeat(self) -> bool:
        """Whether it could be done; nothing has been changed where it could not."""
        if not self._is_regular():
            return False
        readers = [(use.node, use.idx) for use in self._leaves.uses()]
        stream = self._leaves
        for block in range(_TRACED_BLOCKS, len(self._cell.blocks)):
            stream = self._copy(block, stream)
        for node, index in readers:
            node.replace_input_with(index, stream)
        self._order()
        return True

    def _order(self) -> None:
        """Inputs and outputs as the state contract has them."""
        tensors = self._cell.spec.tensors
        wanted = (["tokens", "position", *(one.input for one in tensors)], ["logits", *(one.output for one in tensors)])
        for values, names in zip((self._graph.inputs, self._graph.outputs), wanted, strict=True):
            by_name = {value.name: value for value in values}
            values.clear()
            values.extend(by_name[name] for name in names)

    def _is_regular(self) -> bool:
        """Whether all that differs between blocks carries the block's number in its name.

        Constants that only this block reads may have been computed from its weights.
        """
        inside = set(self._nodes)
        own = {value for node in self._nodes for value in node.inputs if value is not None}
        constants = [
            value for value in own if value.is_initializer() and self._renamed(value.name or "", 0) == value.name
        ]
        shared = all(any(use.node not in inside for use in value.uses()) for value in constants)
        outside = [use.node for node in self._nodes[:-1] for value in node.outputs for use in value.uses()]
        return shared and self._enters in own and all(node in inside for node in outside)

    def _renamed(self, name: str, block: int) -> str:
        """The name of the same thing in another block; names without a block's number stay."""
        name = re.sub(rf"^blocks\.{self._last}\.", f"blocks.{block}.", name)
        return re.sub(rf"^(past|present|row)\.{self._last:02d}\.", rf"\g<1>.{block:02d}.", name)

    def _copy(self, block: int, stream: ir.Value) -> ir.Value:
        """Append one block behind the last; gives the stream that leaves it."""
        values: dict[ir.Value, ir.Value] = {self._enters: stream}
        copies = []
        for node in self._nodes:
            inputs = [None if value is None else self._value(values, value, block) for value in node.inputs]
            copied = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                tuple(node.attributes.values()),
                overload=node.overload,
                num_outputs=len(node.outputs),
                name=f"{node.name}.{block}",
                metadata_props={
                    key: value.replace(f"blocks.{self._last}", f"blocks.{block}")
                    for key, value in node.metadata_props.items()
                },
            )
            for old, new in zip(node.outputs, copied.outputs, strict=True):
                self._describe(old, new, block)
                values[old] = new
            copies.append(copied)
        position = stream.producer()
        assert position is not None
        self._graph.insert_after(position, copies)
        return values[self._leaves]

    def _value(self, values: dict[ir.Value, ir.Value], value: ir.Value, block: int) -> ir.Value:
        """What stands for a value in another block: its own weights and state, and what blocks share."""
        name = self._renamed(value.name or "", block)
        if value not in values:
            values[value] = value if name == value.name else self._own(value, name)
        return values[value]

    def _own(self, value: ir.Value, name: str) -> ir.Value:
        """A weight or a state of the block."""
        own = ir.Value(name=name, shape=value.shape, type=value.type)
        if value.is_initializer():
            own.const_value = ir.tensor(self._weights[name].numpy(), name=name)
            self._graph.register_initializer(own)
        else:
            self._graph.inputs.append(own)
        return own

    def _describe(self, old: ir.Value, new: ir.Value, block: int) -> None:
        renamed = self._renamed(old.name or "", block)
        new.name = f"{old.name}.{block}" if renamed == old.name else renamed
        new.shape, new.type = old.shape, old.type
        if old.is_graph_output():
            self._graph.outputs.append(new)


def trace_whole(cell: RecurrentCell, graph: str, index_type: str = "int64") -> ir.Model:
    """Trace all of the cell at T = 1 or at any T, at B = 1 or at any B.

    Pool rows are left open, a fixed pool's too, so that a runtime may hand in no more of it than it needs; its step for
    B = 1 has one shape.
    """
    spec = cell.spec
    example, shapes = _example(cell, graph, getattr(torch, index_type))
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            cell,
            example,
            dynamo=True,
            opset_version=TRACE_OPSET,
            dynamic_shapes=shapes,
            input_names=["tokens", "position", *(tensor.input for tensor in spec.tensors)],
            output_names=["logits", *(tensor.output for tensor in spec.tensors)],
            verbose=False,
        )
    assert program is not None
    return program.model


def _example(
    cell: RecurrentCell, graph: str, index_dtype: torch.dtype
) -> tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]:
    """Arguments of a call, and which of their dimensions are open."""
    spec, one_token, one_row = cell.spec, graph != "prefill", graph == "step_single"
    pad = spec.step_pad_rows if one_token else 0
    batch, time = 1 if one_row else 3, 1 if one_token else 4
    most = most_rows(spec) or _MANY
    dims = {"t": torch.export.Dim("rows" if pad or spec.pool == "fixed" else "t", min=2, max=most + pad)}
    if not one_row:
        dims["B"] = torch.export.Dim("B", min=2, max=_MANY)
    token_dims = {0: dims["B"]} if "B" in dims else {}
    if not one_token:
        token_dims[1] = torch.export.Dim("T", min=2, max=most)
    rows = _EXAMPLE_ROWS if cell.capacity is None else min(_EXAMPLE_ROWS, cell.capacity + pad)
    sized = StateTensor.sized if one_row else StateTensor.given
    state = tuple(torch.zeros(sized(tensor, batch=batch, rows=rows)) for tensor in spec.tensors)
    open_shapes = [tensor.shape if one_row else tensor.open_shape for tensor in spec.tensors]
    state_dims = tuple({axis: dims[d] for axis, d in enumerate(shape) if d in dims} for shape in open_shapes)
    tokens = torch.zeros(batch, time, dtype=index_dtype)
    return (tokens, torch.tensor(5, dtype=index_dtype), *state), (token_dims, None, state_dims)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
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
