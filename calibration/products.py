"""A graph's products with constant weights: what quantization changes, brought into one shape first.

Exported graphs have `Gemm(x, W [n, k], b, transB=1)`; quantizers want `MatMul(x, W [k, n])` and an `Add`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

BIAS_SUFFIX = ".bias"
"""Ends the name of the node that adds the bias to a product."""

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Product:
    """One product with a constant weight.

    Attributes:
        weight: name of the weight, e.g. "blocks.3.w12"; also the name of the node after :func:`split_products`.
        input: name of the value that is multiplied by it, the same in all graphs of a bundle.
    """

    weight: str
    input: str

    @property
    def unit(self) -> str:
        """Which part of the model it belongs to: "blocks.3" or "head"."""
        return unit_of(self.weight)


def unit_of(name: str) -> str:
    """The part of the model that a weight or state tensor belongs to: "blocks.3", "head", ..."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


def find_products(model: onnx.ModelProto) -> list[Product]:
    """All products with constant weights, in the order of the graph."""
    weights = _matrices(model)
    return [Product(node.input[1], node.input[0]) for node in model.graph.node if _is_product(node, weights)]


def find_tables(model: onnx.ModelProto) -> list[str]:
    """Names of the embedding tables: matrices of which rows are looked up."""
    matrices = _matrices(model)
    looked_up = (node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[0] in matrices)
    return list(dict.fromkeys(looked_up))


def split_products(model: onnx.ModelProto, keep: Collection[str] = ()) -> list[Product]:
    """Turn every product, except with the weights `keep`, into a MatMul that is called as its weight, and an Add.

    What it multiplies is renamed after the weight, so that it is called the same in all graphs.

    Returns:
        The products as they are now.
    """
    weights = _matrices(model)
    _name_inputs(model, weights)
    split: list[Product] = []

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if not _is_product(node, weights) or node.input[1] in keep:
            return [node]
        split.append(Product(node.input[1], node.input[0]))
        return _split(node)

    rewrite_nodes(model, replace)
    chosen = {product.weight for product in split}
    for tensor in model.graph.initializer:
        if tensor.name in chosen:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.T), tensor.name))
    return split


def rewrite_nodes(model: onnx.ModelProto, replace: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]]) -> None:
    """Replace every node by others, in place of it."""
    nodes = [new for node in model.graph.node for new in replace(node)]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """A graph's constants by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def drop_unused_initializers(model: onnx.ModelProto) -> None:
    """Remove constants that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Quantizers of onnxruntime log every node to the root logger, and set it up when they are imported."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def _matrices(model: onnx.ModelProto) -> set[str]:
    return {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }


def _is_product(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    return node.op_type == "Gemm" and node.input[1] in weights and _attribute(node, "transB") == 1


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _name_inputs(model: onnx.ModelProto, weights: Collection[str]) -> None:
    """Name what products multiply after the first weight that multiplies it, unless it has a name already."""
    named = {value.name for value in (*model.graph.input, *model.graph.output)}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        value = node.input[0] if _is_product(node, weights) else ""
        if value and value not in named and not value.startswith("stream."):
            renamed.setdefault(value, f"{node.input[1]}.input")
    _rename_values(model, renamed)


def _rename_values(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    """Rename values wherever nodes give or read them."""
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _split(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    x, weight, *bias = node.input
    (out,) = node.output
    if not bias:
        return [helper.make_node("MatMul", [x, weight], [out], weight)]
    product = f"{weight}.product"
    return [
        helper.make_node("MatMul", [x, weight], [product], weight),
        helper.make_node("Add", [product, bias[0]], [out], weight + BIAS_SUFFIX),
    ]
