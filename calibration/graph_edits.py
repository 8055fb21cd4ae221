"""What every change of a graph is made of: nodes called after what they give, and constants that are there once.

Graphs are :mod:`onnx_ir` models: a value has its name, the node that gives it and the nodes that read it. Nodes may be
added at the end, behind what reads them; whoever does so sorts the graph when it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

Use = tuple[ir.Node, int]
"""A node, and the number of the input by which it reads a value."""


def make_node(op: str, inputs: Sequence[ir.Value | None], output: str, name: str = "", **attributes: Any) -> ir.Node:
    """A node of onnx's own domain with one output; called after its output unless a name is given."""
    return ir.node(op, inputs, attributes, outputs=[ir.val(output)], name=name or f"{output}.{op.lower()}")


def append_node(
    graph: ir.Graph, op: str, inputs: Sequence[ir.Value | None], output: str, **attributes: Any
) -> ir.Value:
    """Add a node at the end of a graph; its output."""
    node = make_node(op, inputs, output, **attributes)
    graph.append(node)
    return node.outputs[0]


def constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """The constant of that name, made where it is not there yet."""
    if name not in graph.initializers:
        graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
    return graph.initializers[name]


def set_array(value: ir.Value, array: npt.NDArray[Any]) -> None:
    """Give a constant another content."""
    value.const_value = ir.tensor(array, name=value.name)
    value.dtype, value.shape = value.const_value.dtype, ir.Shape(array.shape)


def array_of(value: ir.Value) -> npt.NDArray[Any]:
    """A constant's content."""
    assert value.const_value is not None
    return value.const_value.numpy()


def name_of(value: ir.Value | None) -> str:
    """A value's name; all values of our graphs have one."""
    assert value is not None
    assert value.name is not None
    return value.name


def redirect(uses: Iterable[Use], value: ir.Value) -> None:
    """Have nodes read another value."""
    for node, index in tuple(uses):
        node.replace_input_with(index, value)


def drop_unused_constants(graph: ir.Graph) -> None:
    """Remove constants that nothing reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
