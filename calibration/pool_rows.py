"""Pools whose rows a graph takes and gives in a narrower type: int8 with a scale per row, or float16.

Rows are widened to float32 before they are read, and new ones are narrowed: calibration/row_types.py. A call reads its
own new rows as they are stored, too (calibration/new_rows.py): how a sequence is split into steps and prefills does not
change what is computed.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

import onnx_ir as ir

from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.calibration.graph_edits import append_node, name_of, redirect
from causalrn.calibration.new_rows import read_as_stored
from causalrn.calibration.row_types import narrow_rows, widen_rows

_TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


def narrow_pools(model: ir.Model, spec: StateSpec, *, portable: bool) -> None:
    """Change a graph's pools from float32 to the element type that `spec` gives them, in place.

    Args:
        portable: widen int8 rows by Cast and Mul, not by a DequantizeLinear whose scales are an input: TensorRT takes
            constant scales only. 1.1 times the time of the whole readout in onnxruntime.
    """
    graph = model.graph
    for pool in spec.tensors:
        if pool.role == "pool":
            scales = [tensor for tensor in spec.tensors if tensor.name == pool.scale_name]
            _narrow_pool(graph, [pool, *scales], portable=portable)
    _order(graph.inputs, [tensor.input for tensor in spec.tensors])
    _order(graph.outputs, [tensor.output for tensor in spec.tensors])
    graph.sort()


def _narrow_pool(graph: ir.Graph, tensors: Sequence[StateTensor], *, portable: bool) -> None:
    """Change one pool; `tensors` are its rows and, in int8, their scales, as all that stands for the pool below."""
    past = _take_stored(graph, tensors)
    _widen_past(graph, past, portable=portable)
    out = next(value for value in graph.outputs if value.name == tensors[0].output)
    graph.outputs.remove(out)
    out.name = f"{tensors[0].output}.values"
    row = _new_rows(out, tensors[0])  # [T, B, H]
    readers = tuple(row.uses())
    new, values = narrow_rows(graph, row, [f"row.{tensor.name}" for tensor in tensors])
    read_as_stored(graph, row, readers, values)
    _give_stored(graph, tensors, out, past, new)


def _take_stored(graph: ir.Graph, tensors: Sequence[StateTensor]) -> list[ir.Value]:
    """Have a graph take rows as they are stored."""
    past = next(value for value in graph.inputs if value.name == tensors[0].input)
    past.dtype = _TYPES[tensors[0].dtype]
    scales = [ir.val(scale.input, _TYPES[scale.dtype], _without_last(past)) for scale in tensors[1:]]
    graph.inputs.extend(scales)
    return [past, *scales]


def _widen_past(graph: ir.Graph, past: Sequence[ir.Value], *, portable: bool) -> None:
    """Have nodes read float32 values of what goes in; a pool's size can be asked of it as it is."""
    readers = [(node, index) for node, index in past[0].uses() if node.op_type != "Shape"]
    shaped_anyway = all(_shapes_every_axis(node) for node, _ in readers)
    redirect(readers, widen_rows(graph, past, portable=portable, flat=shaped_anyway))


def _shapes_every_axis(node: ir.Node) -> bool:
    """Whether it is a Reshape that takes no size (0) from its input: that of [t * B, H] is not that of [t, B, H]."""
    target = node.inputs[1].const_value if node.op_type == "Reshape" and node.inputs[1] is not None else None
    return target is not None and 0 not in target.numpy()


def _new_rows(out: ir.Value, pool: StateTensor) -> ir.Value:
    """The new rows in float32: what comes out, or what a Concat puts behind the old rows to give all of them."""
    if pool.update == "append":
        return out
    concat = out.producer()
    assert concat is not None
    assert concat.op_type == "Concat"
    row = concat.inputs[1]
    assert row is not None
    return row


def _give_stored(
    graph: ir.Graph,
    tensors: Sequence[StateTensor],
    out: ir.Value,
    past: Sequence[ir.Value],
    new: Sequence[ir.Value],
) -> None:
    """Have a graph give rows as they are stored; where it gives all rows, old ones go through as they are."""
    shapes = [out.shape, *(_without_last(out) for _ in tensors[1:])]
    for tensor, shape, old, row in zip(tensors, shapes, past, new, strict=True):
        given = row if tensor.update == "append" else append_node(graph, "Concat", [old, row], tensor.output, axis=0)
        given.dtype, given.shape = _TYPES[tensor.dtype], shape
        graph.outputs.append(given)


def _without_last(value: ir.Value) -> ir.Shape:
    """A pool's shape without its last axis: that of its scales."""
    assert value.shape is not None
    return ir.Shape(value.shape[:-1])


def _order(values: MutableSequence[ir.Value], names: Sequence[str]) -> None:
    """Put what goes in or out into the contract's order, behind what is no state."""
    by_name = {name_of(value): value for value in values}
    ordered = [*(value for name, value in by_name.items() if name not in names), *(by_name[name] for name in names)]
    values.clear()
    values.extend(ordered)
