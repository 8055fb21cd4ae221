"""Pools whose rows a graph takes and gives in a narrower type: int8 with a scale per row, or float16.

Only what goes in and out changes: rows are widened to float32 before they are read, and narrowed after they were
computed. A call reads its own new rows as they were computed; later calls read them as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from causalrn.runtimes.state_values import INT8_LIMIT, SCALE_FLOOR
from causalrn.state_spec import StateSpec, StateTensor

_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
_LIMIT, _FLOOR, _LAST = "pool.int8_limit", "pool.scale_floor", "pool.last_axis"
_CONSTANTS: dict[str, npt.NDArray[Any]] = {
    _LIMIT: np.array(INT8_LIMIT, np.float32),
    _FLOOR: np.array(SCALE_FLOOR, np.float32),
    _LAST: np.array([-1], np.int64),
}


def narrow_pools(model: onnx.ModelProto, spec: StateSpec, *, portable: bool) -> None:
    """Change a graph's pools from float32 to the element type that `spec` gives them, in place.

    Args:
        portable: widen int8 rows by Cast and Mul, not by a DequantizeLinear whose scales are an input: TensorRT takes
            constant scales only. 1.1 times the time of the whole readout in onnxruntime.
    """
    pools = [tensor for tensor in spec.tensors if tensor.role == "pool"]
    concatenated = {
        name: node.input[1] for node in model.graph.node for name in node.output if name.startswith("present.")
    }
    before, after = [], []
    for pool in pools:
        _rename(model, pool)
        before += list(_widen(pool, portable=portable))
        if pool.update == "append":
            after += list(_narrow(f"{pool.output_name}.values", pool.output_name, pool))
        else:
            after += list(_narrow_and_append(concatenated[pool.output_name], pool))
    nodes = [*before, *model.graph.node, *after]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    _add_constants(model)
    _declare(model, spec)


def _rename(model: onnx.ModelProto, pool: StateTensor) -> None:
    """Have nodes read and write values beside what goes in and out; a pool's size can be asked of it as it is."""
    renamed = {name: f"{name}.values" for name in (pool.input_name, pool.output_name)}
    for node in model.graph.node:
        if node.op_type != "Shape":
            node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _scale_of(name: str) -> str:
    """From "row.00.pool" to "row.00.scale"."""
    return name.removesuffix("pool") + "scale"


def _widen(pool: StateTensor, *, portable: bool) -> Iterator[onnx.NodeProto]:
    """Stored rows [t, B, H] -> their values in float32."""
    name, values = pool.input_name, f"{pool.input_name}.values"
    if pool.dtype == "float16":
        yield _node("Cast", [name], values, to=TensorProto.FLOAT)
    elif portable:
        yield _node("Cast", [name], f"{name}.float32", to=TensorProto.FLOAT)
        yield _node("Unsqueeze", [_scale_of(name), _LAST], f"{name}.column")
        yield _node("Mul", [f"{name}.float32", f"{name}.column"], values)
    else:
        width = pool.shape[-1]
        yield _node("Reshape", [name, f"pool.rows.{width}"], f"{name}.rows")  # [t * B, H]
        yield _node("Reshape", [_scale_of(name), _LAST], f"{name}.scales")  # [t * B]
        yield _node("DequantizeLinear", [f"{name}.rows", f"{name}.scales"], f"{name}.widened", axis=0)
        yield _node("Shape", [name], f"{name}.shape")
        yield _node("Reshape", [f"{name}.widened", f"{name}.shape"], values)


def _narrow(values: str, name: str, pool: StateTensor) -> Iterator[onnx.NodeProto]:
    """Values of new rows [T, B, H] -> what is stored: float16; or int8, rounded to even, and the scale."""
    if pool.dtype == "float16":
        yield _node("Cast", [values], name, to=TensorProto.FLOAT16)
        return
    scale = _scale_of(name)
    yield _node("Abs", [values], f"{name}.magnitude")
    yield _node("ReduceMax", [f"{name}.magnitude", _LAST], f"{name}.largest", keepdims=0)
    yield _node("Div", [f"{name}.largest", _LIMIT], scale)
    yield _node("Max", [scale, _FLOOR], f"{name}.divisor")
    yield _node("Unsqueeze", [f"{name}.divisor", _LAST], f"{name}.divisors")
    yield _node("Div", [values, f"{name}.divisors"], f"{name}.scaled")
    yield _node("Round", [f"{name}.scaled"], f"{name}.rounded")
    yield _node("Cast", [f"{name}.rounded"], name, to=TensorProto.INT8)


def _narrow_and_append(values: str, pool: StateTensor) -> Iterator[onnx.NodeProto]:
    """The same for a pool that a graph gives back whole: its old rows stay as they are stored."""
    row = f"row.{pool.name}"
    yield from _narrow(values, row, pool)
    yield _node("Concat", [pool.input_name, row], pool.output_name, axis=0)
    if pool.scale_name is not None:
        yield _node("Concat", [_scale_of(pool.input_name), _scale_of(row)], _scale_of(pool.output_name), axis=0)


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], f"{output}.{op.lower()}", **attributes)


def _add_constants(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    constants: dict[str, npt.NDArray[Any]] = dict(_CONSTANTS)
    for name in used:
        if name.startswith("pool.rows."):
            constants[name] = np.array([-1, int(name.rpartition(".")[2])])
    for name, value in constants.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))


def _declare(model: onnx.ModelProto, spec: StateSpec) -> None:
    """Write pools' element types, and the scales beside them, into what goes in and out, in the contract's order."""
    for values, name_of in ((model.graph.input, "input_name"), (model.graph.output, "output_name")):
        declared = {value.name: value for value in values}
        for tensor in spec.tensors:
            name = getattr(tensor, name_of)
            if tensor.role == "pool":
                declared[name].type.tensor_type.elem_type = _TYPES[tensor.dtype]
            elif tensor.role == "scale":
                declared[name] = _scale_value(declared[name.removesuffix("scale") + "pool"], name)
        others = [value for value in values if not value.name.startswith(("past.", "row.", "present."))]
        ordered = [declared[getattr(tensor, name_of)] for tensor in spec.tensors]
        copies = helper.make_graph([], "", [*others, *ordered], []).input  # clearing `values` would clear them, too
        del values[:]
        values.extend(copies)


def _scale_value(pool: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """A pool's declaration without its last axis."""
    scale = onnx.ValueInfoProto()
    scale.CopyFrom(pool)
    scale.name = name
    scale.type.tensor_type.elem_type = TensorProto.FLOAT
    del scale.type.tensor_type.shape.dim[-1]
    return scale
