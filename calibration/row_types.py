"""The types in which pool rows are stored, in a graph: float32 values of stored rows, and stored rows of values.

What stands for rows [t, B, H] is [rows] in float16, and [rows, scales [t, B]] in int8, rounded as
:func:`causalrn.bundle.quantization.round_to_int8` does it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from causalrn.bundle.quantization import INT8_LIMIT, LEAST_LARGEST
from causalrn.calibration.graph_edits import append_node, constant, name_of


def widen_rows(graph: ir.Graph, stored: Sequence[ir.Value], *, portable: bool, flat: bool) -> ir.Value:
    """Stored rows as float32 values.

    Args:
        portable: by Cast and Mul, not by a DequantizeLinear whose scales are computed.
        flat: whether a DequantizeLinear may leave them as [t * B, H], for all that read them shape them anyway.
    """
    rows, *scales = stored
    name = name_of(rows)
    values = f"{name}.values"
    if not scales:
        return append_node(graph, "Cast", [rows], values, to=ir.DataType.FLOAT)
    last = _last_axis(graph)
    if portable:
        numbers = append_node(graph, "Cast", [rows], f"{name}.float32", to=ir.DataType.FLOAT)
        column = append_node(graph, "Unsqueeze", [scales[0], last], f"{name}.column")
        return append_node(graph, "Mul", [numbers, column], values)
    assert rows.shape is not None
    width = int(rows.shape[-1])  # type: ignore[arg-type]  # the last axis is never open
    matrix = constant(graph, f"pool.rows.{width}", np.array([-1, width]))
    by_row = append_node(graph, "Reshape", [rows, matrix], f"{name}.rows")  # [t * B, H]
    by_scale = append_node(graph, "Reshape", [scales[0], last], f"{name}.scales")  # [t * B]
    widened = append_node(graph, "DequantizeLinear", [by_row, by_scale], values if flat else f"{name}.widened", axis=0)
    if flat:
        return widened
    return append_node(graph, "Reshape", [widened, append_node(graph, "Shape", [rows], f"{name}.shape")], values)


def narrow_rows(graph: ir.Graph, values: ir.Value, names: Sequence[str]) -> tuple[list[ir.Value], ir.Value]:
    """Float32 values as what is stored, and the float32 values that this stands for.

    Args:
        names: of what is stored: one for float16, two for int8.
    """
    name, *scales = names
    if not scales:
        rows = append_node(graph, "Cast", [values], name, to=ir.DataType.FLOAT16)
        return [rows], append_node(graph, "Cast", [rows], f"{name}.as_stored", to=ir.DataType.FLOAT)
    last = _last_axis(graph)
    least = constant(graph, "pool.row_floor", np.array(LEAST_LARGEST, np.float32))
    limit = constant(graph, "pool.int8_limit", np.array(INT8_LIMIT, np.float32))
    magnitude = append_node(graph, "Abs", [values], f"{name}.magnitude")
    largest = append_node(graph, "ReduceMax", [magnitude, last], f"{name}.largest", keepdims=0)
    bounded = append_node(graph, "Max", [largest, least], f"{name}.range")
    scale = append_node(graph, "Div", [bounded, limit], scales[0])
    column = append_node(graph, "Unsqueeze", [scale, last], f"{name}.column")
    scaled = append_node(graph, "Div", [values, column], f"{name}.scaled")
    rounded = append_node(graph, "Round", [scaled], f"{name}.rounded")  # halves to even
    rows = append_node(graph, "Cast", [rounded], name, to=ir.DataType.INT8)
    return [rows, scale], append_node(graph, "Mul", [rounded, column], f"{name}.as_stored")


def _last_axis(graph: ir.Graph) -> ir.Value:
    return constant(graph, "pool.last_axis", np.array([-1], np.int64))
