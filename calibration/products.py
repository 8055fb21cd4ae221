"""A graph's products with constant weights: what quantization changes, brought into one shape first.

Exported graphs have `Gemm(x, W [n, k], b, transB=1)`; quantizers want `MatMul(x, W [k, n])` and an `Add`, as the graphs
of models that users bring have it already.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from causalrn.calibration.graph_edits import array_of, make_node, name_of, set_array

BIAS_SUFFIX = ".bias"
"""Ends the name of the node that adds the bias to a product."""


@dataclass(frozen=True)
class Product:
    """One product with a constant weight.

    Attributes:
        weight: name of the weight, e.g. "blocks.3.w12"; also the name of the node after :func:`split_products`.
        input: name of the value that is multiplied by it, the same in all graphs of a bundle.
    """

    weight: str
    input: str


def unit_of(name: str) -> str:
    """The part of the model that a weight belongs to: "blocks.3", "head", ..."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


def find_products(model: ir.Model) -> list[Product]:
    """All products with constant weights, in the order of the graph."""
    return [_product(node) for node in model.graph if _is_product(node)]


def find_tables(model: ir.Model) -> list[str]:
    """Names of the embedding tables: matrices of which rows are looked up."""
    tables = (name_of(node.inputs[0]) for node in model.graph if reads_table(node))
    return list(dict.fromkeys(tables))


def reads_table(node: ir.Node) -> bool:
    """Whether a node looks up rows of a constant matrix."""
    return node.op_type == "Gather" and _is_matrix(node.inputs[0])


def split_products(model: ir.Model, keep: Collection[str] = ()) -> list[Product]:
    """Turn every product, except with the weights `keep`, into a MatMul that is called as its weight, and an Add.

    What it multiplies is renamed after the weight, so that it is called the same in all graphs.

    Returns:
        The products as they are now.
    """
    gemms = [node for node in model.graph if _is_product(node)]
    for node in gemms:
        _name_input(node)
    split = [node for node in gemms if name_of(node.inputs[1]) not in keep]
    products = [_product(node) for node in split]
    for node in split:
        _split(model.graph, node)
    return products


def _product(node: ir.Node) -> Product:
    return Product(name_of(node.inputs[1]), name_of(node.inputs[0]))


def _is_product(node: ir.Node) -> bool:
    """Whether a node is x W' + b, W a constant that nothing else reads: its content is going to change."""
    weight = node.inputs[1] if node.op_type in ("Gemm", "MatMul") else None
    if weight is None or not _is_matrix(weight) or len(weight.uses()) != 1:
        return False
    if node.op_type == "MatMul":
        return True
    plain = node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
    return plain and node.attributes.get_int("transA", 0) == 0 and node.attributes.get_int("transB", 0) == 1


def _is_matrix(value: ir.Value | None) -> bool:
    """Whether a value is a constant float32 [n, k]."""
    tensor = None if value is None else value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2


def _name_input(node: ir.Node) -> None:
    """Name what a product multiplies after the first weight that multiplies it, unless it has a name of ours."""
    value = node.inputs[0]
    assert value is not None
    ours = value.is_graph_input() or value.is_graph_output() or name_of(value).startswith("stream.")
    if not ours and not name_of(value).endswith(".input"):
        value.name = f"{name_of(node.inputs[1])}.input"


def _split(graph: ir.Graph, node: ir.Node) -> None:
    """Write Gemm as MatMul and Add, and its weight the other way round; a MatMul is called as its weight."""
    x, weight, *bias = node.inputs
    (out,) = node.outputs
    assert x is not None
    assert weight is not None
    name = name_of(weight)
    if node.op_type == "MatMul":
        node.name = name
        return
    set_array(weight, np.ascontiguousarray(array_of(weight).T))  # [k, n]
    new = [make_node("MatMul", [x, weight], f"{name}.product", name)]
    if bias and bias[0] is not None:
        new.append(make_node("Add", [new[0].outputs[0], bias[0]], name_of(out), name + BIAS_SUFFIX))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [out], [new[-1].outputs[0]])
