"""Pools whose rows a graph takes and gives in a narrower type: int8 with a scale per row, or float16.

Rows are widened to float32 before they are read, and new ones are narrowed. A call reads its own new rows as they are
stored, too: how a sequence is split into steps and prefills does not change what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.runtimes.state_values import INT8_LIMIT, ROW_FLOOR

_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity")
_LIMIT, _FLOOR, _LAST, _FIRST = "pool.int8_limit", "pool.row_floor", "pool.last_axis", "pool.first_row"
_ONE_ROW = "pool.one_row"
_CONSTANTS: dict[str, npt.NDArray[Any]] = {
    _LIMIT: np.array(INT8_LIMIT, np.float32),
    _FLOOR: np.array(ROW_FLOOR, np.float32),
    _LAST: np.array([-1], np.int64),
    _FIRST: np.array([0], np.int64),
    _ONE_ROW: np.array([1, -1], np.int64),
}


def narrow_pools(model: onnx.ModelProto, spec: StateSpec, *, portable: bool) -> None:
    """Change a graph's pools from float32 to the element type that `spec` gives them, in place.

    Args:
        portable: widen int8 rows by Cast and Mul, not by a DequantizeLinear whose scales are an input: TensorRT takes
            constant scales only. 1.1 times the time of the whole readout in onnxruntime.
    """
    for pool in spec.tensors:
        if pool.role == "pool":
            values = _rename(model, pool)
            model.graph.node.extend(_widen(model, pool, portable=portable))
            _read_as_stored(model, values, pool)
            model.graph.node.extend(_narrow(values, pool))
            model.graph.node.extend(_append(pool))
    _add_constants(model)
    _declare(model, spec)
    ONNXModel(model).topological_sort()


def _rename(model: onnx.ModelProto, pool: StateTensor) -> str:
    """Have nodes read float32 values beside what goes in; give the name of the new rows' values [T, B, H].

    A pool's size can be asked of it as it is.
    """
    past, out = f"{pool.input}.values", f"{pool.output}.values"
    row = out
    for node in model.graph.node:
        if node.op_type != "Shape":
            node.input[:] = [past if name == pool.input else name for name in node.input]
        node.input[:] = [out if name == pool.output else name for name in node.input]
        if pool.output in node.output:
            node.output[:] = [out]
            row = out if pool.update == "append" else node.input[1]  # of Concat(past, new)
    return row


def _row(pool: StateTensor) -> str:
    """Name of the stored new rows."""
    return f"row.{pool.name}"


def _scale_of(name: str) -> str:
    """From "row.00.pool" to "row.00.scale"."""
    return name.removesuffix("pool") + "scale"


def _widen(model: onnx.ModelProto, pool: StateTensor, *, portable: bool) -> Iterator[onnx.NodeProto]:
    """Stored rows [t, B, H] -> their values in float32."""
    name, values = pool.input, f"{pool.input}.values"
    if pool.dtype == "float16":
        yield _node("Cast", [name], values, to=TensorProto.FLOAT)
        return
    if portable:
        yield _node("Cast", [name], f"{name}.float32", to=TensorProto.FLOAT)
        yield _node("Unsqueeze", [_scale_of(name), _LAST], f"{name}.column")
        yield _node("Mul", [f"{name}.float32", f"{name}.column"], values)
        return
    shaped_anyway = all(node.op_type == "Reshape" for node in model.graph.node if values in node.input)
    flat = values if shaped_anyway else f"{name}.widened"
    yield _node("Reshape", [name, f"pool.rows.{pool.shape[-1]}"], f"{name}.rows")  # [t * B, H]
    yield _node("Reshape", [_scale_of(name), _LAST], f"{name}.scales")  # [t * B]
    yield _node("DequantizeLinear", [f"{name}.rows", f"{name}.scales"], flat, axis=0)
    if not shaped_anyway:
        yield _node("Shape", [name], f"{name}.shape")
        yield _node("Reshape", [flat, f"{name}.shape"], values)


def _narrow(values: str, pool: StateTensor) -> Iterator[onnx.NodeProto]:
    """Values of new rows [T, B, H] -> what is stored, float16 or int8 with a scale, and the values of that."""
    name, scale, stored = _row(pool), _scale_of(_row(pool)), _as_stored(pool)
    if pool.dtype == "float16":
        yield _node("Cast", [values], name, to=TensorProto.FLOAT16)
        yield _node("Cast", [name], stored, to=TensorProto.FLOAT)
        return
    yield _node("Abs", [values], f"{name}.magnitude")
    yield _node("ReduceMax", [f"{name}.magnitude", _LAST], f"{name}.largest", keepdims=0)
    yield _node("Max", [f"{name}.largest", _FLOOR], f"{name}.range")
    yield _node("Div", [f"{name}.range", _LIMIT], scale)
    yield _node("Unsqueeze", [scale, _LAST], f"{name}.column")
    yield _node("Div", [values, f"{name}.column"], f"{name}.scaled")
    yield _node("Round", [f"{name}.scaled"], f"{name}.rounded")
    yield _node("Cast", [f"{name}.rounded"], name, to=TensorProto.INT8)
    yield _node("Mul", [f"{name}.rounded", f"{name}.column"], stored)


def _as_stored(pool: StateTensor) -> str:
    """Name of what the stored new rows stand for."""
    return f"{_row(pool)}.as_stored"


def _append(pool: StateTensor) -> Iterator[onnx.NodeProto]:
    """For a pool that a graph gives back whole: its old rows stay as they are stored."""
    if pool.update != "append":
        yield _node("Concat", [pool.input, _row(pool)], pool.output, axis=0)
        if pool.scale_name is not None:
            scales = (_scale_of(name) for name in (pool.input, _row(pool), pool.output))
            past, row, present = scales
            yield _node("Concat", [past, row], present, axis=0)


def _read_as_stored(model: onnx.ModelProto, values: str, pool: StateTensor) -> None:
    """Let everything that reads the new rows' values read what their stored form stands for.

    Also where they are read before they are shaped as rows, and in a step for one sequence, whose rows are taken from
    a matrix that holds the query, too: [2, H].
    """
    stored, new = _as_stored(pool), []
    nodes = list(model.graph.node)
    made_by = {name: node for node in nodes for name in node.output}
    _redirect(nodes, values, stored)
    source = values
    while made_by[source].op_type in _VIEWS:
        chain, source = made_by[source], made_by[source].input[0]
        shaped = f"{stored}.{source}"
        if _redirect(nodes, source, shaped, but=chain):
            new.append(_node("Shape", [source], f"{shaped}.shape"))
            new.append(_node("Reshape", [stored, f"{shaped}.shape"], shaped))
    taken = made_by[source]
    if taken.op_type == "Gather" and _redirect(nodes, taken.input[0], f"{stored}.pair", but=taken):
        new.append(_node("Gather", [taken.input[0], _FIRST], f"{stored}.query"))
        new.append(_node("Reshape", [stored, _ONE_ROW], f"{stored}.row"))
        new.append(_node("Concat", [f"{stored}.query", f"{stored}.row"], f"{stored}.pair", axis=0))
    model.graph.node.extend(new)


def _redirect(nodes: list[onnx.NodeProto], old: str, new: str, but: onnx.NodeProto | None = None) -> bool:
    """Have all nodes except one read another value; whether there was any."""
    found = False
    for node in nodes:
        if node is not but and old in node.input:
            node.input[:] = [new if name == old else name for name in node.input]
            found = True
    return found


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], f"{output}.{op.lower()}", **attributes)


def _add_constants(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    constants = dict(_CONSTANTS)
    for name in used:
        if name.startswith("pool.rows."):
            constants[name] = np.array([-1, int(name.rpartition(".")[2])])
    for name, value in constants.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))


def _declare(model: onnx.ModelProto, spec: StateSpec) -> None:
    """Write pools' element types, and the scales beside them, into what goes in and out, in the contract's order."""
    for values, name_of in ((model.graph.input, "input"), (model.graph.output, "output")):
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
