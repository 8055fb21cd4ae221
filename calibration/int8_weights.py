"""Weights in int8 with a scale per output channel, behind a DequantizeLinear that any runtime has."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from causalrn.bundle.quantization import round_to_int8
from causalrn.calibration.graph_edits import array_of, constant, drop_unused_constants, make_node
from causalrn.calibration.products import Product


def quantize_to_int8(model: ir.Model, products: Sequence[Product]) -> None:
    """Store the weight of every product [k, n] as int8 and a scale [n], in place."""
    graph = model.graph
    for product in products:
        name, weight = product.weight, graph.initializers[product.weight]
        values, scale = round_to_int8(array_of(weight), axis=0)
        stored = [constant(graph, f"{name}.int8", values), constant(graph, f"{name}.scale", scale)]
        ((reader, index),) = weight.uses()
        widen = make_node("DequantizeLinear", stored, f"{name}.float32", f"{name}.dequantize", axis=1)
        graph.insert_before(reader, widen)
        reader.replace_input_with(index, widen.outputs[0])
    drop_unused_constants(graph)
