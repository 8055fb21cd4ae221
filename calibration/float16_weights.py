"""Products in float16, and embedding tables stored so. Norms, exp and the residual stream stay float32.

|LN0| <= sqrt(H - 1): in float16 exp overflows from H = 124 on, and sums over positions earlier.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from causalrn.calibration.graph_edits import array_of, make_node, name_of, set_array
from causalrn.calibration.products import Product, reads_table
from causalrn.errors import NonFiniteError


def convert_to_float16(model: ir.Model, products: Sequence[Product], tables: Collection[str]) -> None:
    """Narrow products and tables, in place; what is between them stays float32.

    Raises:
        NonFiniteError: a weight is beyond float16's 65,504.
    """
    graph = model.graph
    lookups = [node for node in graph if reads_table(node) and name_of(node.inputs[0]) in tables]
    matrices = {name: graph.initializers[name] for name in (*tables, *(product.weight for product in products))}
    multiplications = [node for product in products for node in matrices[product.weight].consumers()]
    for weight in matrices.values():
        set_array(weight, _as_float16(weight))
    for node in multiplications:
        narrow = f"{name_of(node.inputs[1])}.input.float16"
        cast = make_node("Cast", [node.inputs[0]], narrow, to=ir.DataType.FLOAT16)
        graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])
    for node in (*lookups, *multiplications):
        _widen(graph, node)


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    """Give a node's result, which is float16, as float32 under its old name."""
    (narrow,) = node.outputs
    name = name_of(narrow)
    narrow.name = f"{name}.float16"
    wide = ir.val(name, ir.DataType.FLOAT, narrow.shape)
    narrow.replace_all_uses_with(wide, replace_graph_outputs=True)
    cast = ir.node("Cast", [narrow], {"to": ir.DataType.FLOAT}, outputs=[wide], name=f"{name}.cast")
    graph.insert_after(node, cast)


def _as_float16(weight: ir.Value) -> np.ndarray:
    array = array_of(weight)
    if np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
        raise NonFiniteError(f"{weight.name} holds values beyond float16's 65,504")
    return array.astype(np.float16)
