"""A call's own new pool rows: everything that reads their values reads what their stored form stands for instead."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from causalrn.calibration.graph_edits import Use, append_node, constant, name_of, redirect

_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity")


def read_as_stored(graph: ir.Graph, row: ir.Value, readers: Iterable[Use], stored: ir.Value) -> None:
    """Have readers of new rows read `stored`, also those that read them before they are shaped as rows.

    Args:
        row: the rows' float32 values [T, B, H].
        readers: of `row`, without those that narrow it.
        stored: [T, B, H], what the stored rows stand for.
    """
    redirect(readers, stored)
    source = row
    while (node := source.producer()) is not None and node.op_type in _VIEWS:
        assert node.inputs[0] is not None
        source = node.inputs[0]
        _read_reshaped(graph, source, _others(source, node), stored)
    if node is not None and node.op_type == "Gather":
        _read_pair(graph, node, stored)


def _read_reshaped(graph: ir.Graph, source: ir.Value, readers: list[Use], stored: ir.Value) -> None:
    """Give `stored` in the shape that the values had before."""
    if readers:
        name = f"{stored.name}.{source.name}"
        shape = append_node(graph, "Shape", [source], f"{name}.shape")
        redirect(readers, append_node(graph, "Reshape", [stored, shape], name))


def _read_pair(graph: ir.Graph, taken: ir.Node, stored: ir.Value) -> None:
    """In a step for one sequence the row is taken from a matrix [2, H] that holds the query, too: put it back there."""
    pair = taken.inputs[0]
    assert pair is not None
    readers = _others(pair, taken)
    if readers:
        name = name_of(stored)
        first = constant(graph, "pool.first_row", np.array([0], np.int64))
        one_row = constant(graph, "pool.one_row", np.array([1, -1], np.int64))
        query = append_node(graph, "Gather", [pair, first], f"{name}.query")
        row = append_node(graph, "Reshape", [stored, one_row], f"{name}.row")
        redirect(readers, append_node(graph, "Concat", [query, row], f"{name}.pair", axis=0))


def _others(value: ir.Value, node: ir.Node) -> list[Use]:
    """All who read a value, except one node."""
    return [(reader, index) for reader, index in value.uses() if reader is not node]
