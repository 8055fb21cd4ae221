"""Graphs for earlier opsets: what an opset does not have is written with what it has, in ONNX's own operators only.

Cells are traced at the newest opset. The changes are those that the graphs of cells need: `RMSNormalization` (23) and
`Gelu` (20) become what they are defined as, which onnxruntime fuses again; reductions name their axes in an attribute
(before 18), and a split its parts by its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from causalrn.calibration.graph_edits import array_of, constant, drop_unused_constants, make_node, name_of
from causalrn.errors import ConfigError

TRACE_OPSET = 23
_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""By opset, the version of the file format that came with it."""
OPSETS = tuple(_IR_VERSIONS)
_AXES_ARE_INPUTS = 18
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin")


def check_opset(opset: int) -> None:
    """Refuse an opset that graphs are not written for.

    Raises:
        ConfigError: it is none of :data:`OPSETS`.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset} is not supported: choose one of {', '.join(map(str, OPSETS))}")


def set_opset(model: ir.Model, opset: int) -> None:
    """Write a traced graph for an opset, in place."""
    for node in list(model.graph):
        since, rewrite = _REWRITES.get(node.op_type, (0, None))
        if rewrite is not None and opset < since:
            rewrite(model.graph, node, opset)
    drop_unused_constants(model.graph)
    model.opset_imports.clear()
    model.opset_imports[""] = opset
    model.ir_version = _IR_VERSIONS[opset]


def _decompose_rms_norm(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """X / sqrt(mean(x^2) + eps) * scale, over the last axis: the shape in which onnxruntime fuses it again."""
    (x, scale), name = node.inputs, name_of(node.outputs[0])
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    two = constant(graph, "constant.two", np.array(2, np.float32))
    floor = constant(graph, f"constant.floor_{epsilon:g}", np.array(epsilon, np.float32))
    squares = make_node("Pow", [x, two], f"{name}.squares")
    mean = _mean_of_last(graph, squares.outputs[0], f"{name}.mean", opset)
    above = make_node("Add", [mean.outputs[0], floor], f"{name}.above")
    root = make_node("Sqrt", [above.outputs[0]], f"{name}.root")
    quotient = make_node("Div", [x, root.outputs[0]], f"{name}.quotient")
    _replace(graph, node, [squares, mean, above, root, quotient], "Mul", [quotient.outputs[0], scale])


def _mean_of_last(graph: ir.Graph, x: ir.Value, name: str, opset: int) -> ir.Node:
    """The mean over the last axis, which stays with size 1."""
    if opset < _AXES_ARE_INPUTS:
        return make_node("ReduceMean", [x], name, keepdims=1, axes=[-1])
    last = constant(graph, "constant.last_axis", np.array([-1], np.int64))
    return make_node("ReduceMean", [x, last], name, keepdims=1)


def _decompose_gelu(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """X / 2 (1 + erf(x / sqrt 2)): without `approximate`, as cells have it.

    The half stands first: MNN 3.6 takes what has it last for its own approximation, which is off by 5e-4.
    """
    (x,), name = node.inputs, name_of(node.outputs[0])
    root_two, one, half = (
        constant(graph, f"constant.{word}", np.array(value, np.float32))
        for word, value in (("root_two", math.sqrt(2)), ("one", 1), ("half", 0.5))
    )
    scaled = make_node("Div", [x, root_two], f"{name}.scaled")
    erf = make_node("Erf", [scaled.outputs[0]], f"{name}.erf")
    above = make_node("Add", [erf.outputs[0], one], f"{name}.above")
    halved = make_node("Mul", [x, half], f"{name}.halved")
    _replace(graph, node, [scaled, erf, above, halved], "Mul", [halved.outputs[0], above.outputs[0]])


def _name_axes(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Axes of a reduction in an attribute."""
    x, *axes = node.inputs
    attributes: dict[str, Any] = {"keepdims": node.attributes.get_int("keepdims", 1)}
    if axes and axes[0] is not None:
        attributes["axes"] = [int(axis) for axis in array_of(axes[0]).reshape(-1)]
    _replace(graph, node, [], node.op_type, [x], **attributes)


def _count_outputs(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """A split into equal parts, as many as there are outputs."""
    node.attributes.pop("num_outputs", None)


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    before: Sequence[ir.Node],
    op: str,
    inputs: Sequence[ir.Value | None],
    **attributes: Any,
) -> None:
    """Put nodes, and last one of the kind `op`, in place of a node: what it gave keeps its name."""
    old = node.outputs[0]
    last = make_node(op, inputs, name_of(old), **attributes)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*before, last], [old], [last.outputs[0]])


_Rewrite = Callable[[ir.Graph, ir.Node, int], None]
_REWRITES: dict[str, tuple[int, _Rewrite]] = {
    "RMSNormalization": (23, _decompose_rms_norm),
    "Gelu": (20, _decompose_gelu),
    "Split": (18, _count_outputs),
    **dict.fromkeys(_REDUCTIONS, (_AXES_ARE_INPUTS, _name_axes)),
}
"""By operator, the first opset that has it as it is traced, and what writes it for earlier ones."""
