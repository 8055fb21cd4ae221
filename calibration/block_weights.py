"""Weights in 8 or 4 bits with a scale per 64 weights: onnxruntime's quantizer writes them, in one of two forms."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from causalrn.calibration.products import Product
from causalrn.calibration.quiet import quiet_quantizer

BLOCK_SIZE = 64
"""Weights of one output channel that share a scale."""
_ACCURACY_LEVEL = 4
"""Activations go to int8 inside MatMulNBits: the default keeps them float32 and takes ten times as long for 8 bits."""


def quantize_to_nbits(model: ir.Model, products: Sequence[Product], bits: int) -> ir.Model:
    """Every product as onnxruntime's MatMulNBits: fast in onnxruntime, unknown elsewhere."""
    return _quantize_blocks(model, products, bits, portable=False)


def quantize_to_int4(model: ir.Model, products: Sequence[Product]) -> ir.Model:
    """Every weight as int4 with a scale per block of 64, behind a DequantizeLinear."""
    quantized = _quantize_blocks(model, products, 4, portable=True)
    for node in quantized.graph:
        if node.op_type == "DequantizeLinear":  # it has its weight's name, which TensorRT takes for a second one
            node.name = f"{node.name}.dequantize"
    return quantized


def _quantize_blocks(model: ir.Model, products: Sequence[Product], bits: int, *, portable: bool) -> ir.Model:
    with quiet_quantizer():
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            ir.to_proto(model),
            bits=bits,
            block_size=BLOCK_SIZE,
            is_symmetric=True,
            accuracy_level=_ACCURACY_LEVEL,
            nodes_to_include=[product.weight for product in products],
            quant_format=QuantFormat.QDQ if portable else QuantFormat.QOperator,
        )
        quantizer.process()
    return ir.serde.deserialize_model(quantizer.model.model)
