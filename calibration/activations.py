"""Products in int8 on both sides: scales of activations computed at every call (dynamic), or fixed by calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from causalrn.calibration.products import BIAS_SUFFIX, Product, initializers, quiet_quantizer

_DYNAMIC_OPTIONS = {"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT}
_STATIC_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,
    "OpTypesToExcludeOutputQuantization": ["MatMul"],
    "MatMulConstBOnly": True,
    "DefaultTensorType": onnx.TensorProto.FLOAT,
}
"""What TensorRT accepts: no zero points, no int32 biases, a scale per output channel of the weights."""


def quantize_activations_dynamically(model: onnx.ModelProto, products: Sequence[Product]) -> onnx.ModelProto:
    """Every product as MatMulInteger; onnxruntime's quantizer writes it, onnxruntime alone fuses it."""
    with quiet_quantizer(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[product.weight for product in products],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options=_DYNAMIC_OPTIONS,
        )
        return onnx.load(path)


def quantize_activations_statically(
    model: onnx.ModelProto, products: Sequence[Product], limits: Mapping[str, float]
) -> onnx.ModelProto:
    """Every product between QuantizeLinear and DequantizeLinear, in the form that TensorRT accepts.

    Args:
        limits: by the name of what is multiplied, the largest |value| that int8 has to hold.
    """
    ranges = {name: TensorData(lowest=np.float32(-limit), highest=np.float32(limit)) for name, limit in limits.items()}
    with quiet_quantizer():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[product.weight for product in products],
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options=_STATIC_OPTIONS,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _subtract_biases(quantized)
    return quantized


def _subtract_biases(model: onnx.ModelProto) -> None:
    """Write x + b as x - (-b), which is the same bit for bit.

    onnxruntime 1.32 turns MatMul and Add into Gemm before it looks for quantized products, finds none, and computes in
    float32 from weights that it dequantizes at every step: 16 times the time at the paper's size.
    """
    constants, negated = initializers(model), set()
    for node in model.graph.node:
        if node.op_type == "Add" and node.name.endswith(BIAS_SUFFIX):
            node.op_type = "Sub"
            negated.add(node.input[1])
    for name in negated:
        array = numpy_helper.to_array(constants[name])
        constants[name].CopyFrom(numpy_helper.from_array(-array, name))
