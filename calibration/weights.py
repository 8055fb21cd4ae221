"""Quantized weights in a graph: block-wise for onnxruntime's MatMulNBits, per channel for DequantizeLinear, float16.

Each function changes the products that :func:`causalrn.calibration.products.split_products` made, in place or as a new
graph, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from causalrn.calibration.products import (
    FloatArray,
    Product,
    drop_unused_initializers,
    initializers,
    quiet_quantizer,
    rewrite_nodes,
)
from causalrn.errors import NonFiniteError
from causalrn.runtimes.state_values import INT8_LIMIT

BLOCK_SIZE = 64
"""Weights of one output channel that share a scale."""
_ACCURACY_LEVEL = 4
"""Activations go to int8 inside MatMulNBits: the default keeps them float32 and takes ten times as long for 8 bits."""


def quantize_to_nbits(model: onnx.ModelProto, products: Sequence[Product], bits: int) -> onnx.ModelProto:
    """Every product as onnxruntime's MatMulNBits: fast in onnxruntime, unknown elsewhere."""
    return _quantize_blocks(model, products, bits, portable=False)


def quantize_to_int4(model: onnx.ModelProto, products: Sequence[Product]) -> onnx.ModelProto:
    """Every weight as int4 with a scale per block of 64, behind a DequantizeLinear."""
    quantized = _quantize_blocks(model, products, 4, portable=True)
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear":  # it has its weight's name, which TensorRT takes for a second one
            node.name = f"{node.name}.dequantize"
    return quantized


def _quantize_blocks(
    model: onnx.ModelProto, products: Sequence[Product], bits: int, *, portable: bool
) -> onnx.ModelProto:
    with quiet_quantizer():
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model,
            bits=bits,
            block_size=BLOCK_SIZE,
            is_symmetric=True,
            accuracy_level=_ACCURACY_LEVEL,
            nodes_to_include=[product.weight for product in products],
            quant_format=QuantFormat.QDQ if portable else QuantFormat.QOperator,
        )
        quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def quantize_to_int8(model: onnx.ModelProto, products: Sequence[Product]) -> onnx.ModelProto:
    """Every weight as int8 with a scale per output channel, behind a DequantizeLinear."""
    weights, constants = {product.weight for product in products}, initializers(model)

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            return [node]
        weight = node.input[1]
        values, scale = int8_channels(numpy_helper.to_array(constants[weight]))
        names = [f"{weight}.int8", f"{weight}.scale"]
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for array, name in zip((values, scale), names, strict=True)
        )
        node.input[1] = f"{weight}.float32"
        return [helper.make_node("DequantizeLinear", names, [node.input[1]], f"{weight}.dequantize", axis=1), node]

    rewrite_nodes(model, replace)
    drop_unused_initializers(model)
    return model


def int8_channels(weight: FloatArray) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int8]], FloatArray]:
    """A weight [k, n] as int8 and a float32 scale per column: the largest |value| of a column becomes 127."""
    scale = np.abs(weight).max(0) / np.float32(INT8_LIMIT)
    divisor = np.where(scale > 0, scale, 1)
    return np.rint(weight / divisor).astype(np.int8), scale.astype(np.float32)


def convert_to_float16(model: onnx.ModelProto, products: Sequence[Product], tables: Collection[str]) -> onnx.ModelProto:
    """Every product in float16, and embedding tables stored so. Norms, exp and the residual stream stay float32.

    |LN0| <= sqrt(H - 1): in float16 exp overflows from H = 124 on, and sums over positions earlier.

    Raises:
        NonFiniteError: a weight is beyond float16's 65,504.
    """
    weights = {product.weight for product in products}
    for tensor in model.graph.initializer:
        if tensor.name in weights or tensor.name in tables:
            tensor.CopyFrom(numpy_helper.from_array(_as_float16(tensor), tensor.name))

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type == "Gather" and node.input[0] in tables:
            return _widened(node)
        if node.op_type != "MatMul" or node.input[1] not in weights:
            return [node]
        narrow = f"{node.input[1]}.input.float16"
        cast = helper.make_node("Cast", [node.input[0]], [narrow], f"{narrow}.cast", to=TensorProto.FLOAT16)
        node.input[0] = narrow
        return [cast, *_widened(node)]

    rewrite_nodes(model, replace)
    return model


def _widened(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node, whose result is float16, and a Cast that gives it as float32 under the old name."""
    (out,) = node.output
    node.output[0] = f"{out}.float16"
    return [node, helper.make_node("Cast", [node.output[0]], [out], f"{out}.cast", to=TensorProto.FLOAT)]


def _as_float16(tensor: onnx.TensorProto) -> FloatArray:
    array = numpy_helper.to_array(tensor)
    if np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
        raise NonFiniteError(f"{tensor.name} holds values beyond float16's 65,504")
    return array.astype(np.float16)
