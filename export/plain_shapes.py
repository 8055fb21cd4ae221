"""Shapes that a traced graph computes while it runs, and that are known: constants in their place.

torch.onnx writes the target of every Reshape as sums and products of the sizes of its inputs. Most have one size at
most that is neither constant nor the input's own at the same place: the numbers 0 ("as the input has it") and -1
("what is left") say the same. Runtimes that plan shapes ahead (tract 0.23, MNN 3.6, TVM 0.27) follow these, and not the
arithmetic; onnxruntime has fewer nodes to run. Two things they do not follow either: what is left beside a sum of sizes
(tract), and a size that is left although it is known (IREE 3.13). There the target has sizes that other values have,
each asked for once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from causalrn.calibration.graph_edits import array_of, constant, make_node, name_of

_AS_INPUT, _WHAT_IS_LEFT = 0, -1
_MAY_BE_EMPTY = "t"
"""Size of a pool before a prefill, 0 in a fresh state: then nothing can be told from what is left."""


def set_known_shapes(model: ir.Model) -> None:
    """Replace computed shapes by constants where that can be done, in place."""
    graph = model.graph
    for node in graph:
        if node.op_type == "Reshape":
            _fix_target(graph, node)
    for node in list(graph):
        if node.op_type == "Squeeze":
            _keep_as_vector(node)
    RemoveUnusedNodesPass()(model)


def _fix_target(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Reshape a constant target."""
    x, target = node.inputs
    assert x is not None
    assert target is not None
    output = node.outputs[0].shape
    if target.const_value is not None or x.shape is None or output is None:
        return
    sizes = list(_target_sizes(x.shape.dims, output.dims))
    beside_sum = _WHAT_IS_LEFT in sizes and any("+" in str(_size(dim)) for dim in x.shape.dims)
    several = sizes.count(_WHAT_IS_LEFT) > 1
    if (beside_sum or several) and _compute_target(graph, node, sizes, output.dims):
        return
    if several or (_WHAT_IS_LEFT in sizes and _MAY_BE_EMPTY in map(_size, x.shape.dims)):
        return
    name = f"constant.shape_{'_'.join(map(str, sizes))}".replace("-1", "rest")
    node.replace_input_with(1, constant(graph, name, np.array(sizes, np.int64)))
    node.attributes.pop("allowzero", None)


def _compute_target(
    graph: ir.Graph, node: ir.Node, sizes: Sequence[int], wanted: Sequence[int | ir.SymbolicDim]
) -> bool:
    """Give a Reshape a target of sizes that other values have, without arithmetic; False where nothing has one."""
    parts = []
    for size, dim in zip(sizes, wanted, strict=True):
        part = _size_of_value(graph, node, str(_size(dim))) if size == _WHAT_IS_LEFT else _number(graph, size)
        if part is None:
            return False
        parts.append(part)
    name = "shape_of_" + "_".join(name_of(part).rpartition(".")[2] for part in parts)
    node.replace_input_with(1, _computed(graph, name, "Concat", parts, axis=0))
    node.attributes.pop("allowzero", None)
    return True


def _size_of_value(graph: ir.Graph, reader: ir.Node, text: str) -> ir.Value | None:
    """[1]: a size that an input has, or what some node before `reader` gives; None where nothing has it."""
    for value in _values_before(graph, reader):
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if _size(dim) == text:
                return _computed(graph, f"size.{text.replace('*', '_')}", "Shape", [value], start=axis, end=axis + 1)
    return None


def _values_before(graph: ir.Graph, reader: ir.Node) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        if node is reader:
            return
        yield from node.outputs


def _number(graph: ir.Graph, value: int) -> ir.Value:
    """[1]: a constant."""
    return constant(graph, f"constant.size.{value}", np.array([value], np.int64))


def _computed(graph: ir.Graph, name: str, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
    """What a node gives that stands before all that use it; the same for all that ask for it by this name."""
    for node in graph:
        if node.outputs[0].name == name:
            return node.outputs[0]
    node = make_node(op, inputs, name, **attributes)
    before = [made for made in graph if any(value.producer() is made for value in inputs)]
    if before:
        graph.insert_after(before[-1], node)
    else:
        graph.insert_before(graph[0], node)
    return node.outputs[0]


def _target_sizes(given: Sequence[int | ir.SymbolicDim], wanted: Sequence[int | ir.SymbolicDim]) -> Iterator[int]:
    for axis, size in enumerate(map(_size, wanted)):
        if isinstance(size, int):
            yield size
        elif axis < len(given) and _size(given[axis]) == size:
            yield _AS_INPUT
        else:
            yield _WHAT_IS_LEFT


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _keep_as_vector(node: ir.Node) -> None:
    """A size [1] that becomes a scalar, perhaps negative, and [1] again for a Slice: leave it as it is."""
    vector, scalar = node.inputs[0], node.outputs[0]
    assert vector is not None
    for use in tuple(scalar.uses()):
        if _makes_vector(use.node):
            use.node.outputs[0].replace_all_uses_with(vector)
        elif use.node.op_type == "Neg":
            result = use.node.outputs[0]
            readers = [reader.node for reader in result.uses()]
            if all(map(_makes_vector, readers)) and not result.is_graph_output():
                use.node.replace_input_with(0, vector)
                result.shape = vector.shape
                for reader in readers:
                    reader.outputs[0].replace_all_uses_with(result)


def _makes_vector(node: ir.Node) -> bool:
    """Whether it is a Reshape to [-1] inside the graph."""
    if node.op_type != "Reshape" or node.outputs[0].is_graph_output():
        return False
    target = node.inputs[1]
    return target is not None and target.const_value is not None and array_of(target).tolist() == [_WHAT_IS_LEFT]
