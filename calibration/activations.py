"""Products in int8 on both sides: scales of activations computed at every call (dynamic), or fixed by calibration.

Weights take 7 of the 8 bits, -64 to 64. x86 processors with AVX2 or AVX-512 but without VNNI add the products of two
weights with two activations of 8 bits, 0 to 255, in 16 bits, and cut off what is beyond 32,767: 2 x 255 x 127 is, 2 x
255 x 64 is not. Weights of 8 bits lose 0.1 to 0.2 of the largest logit there. As unsigned bytes around a zero point of
128 they would be right, too; but those products take up to 1.9 times as long, and TensorRT has no zero points
(docs/quantization.md has the measurements).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.calibration.graph_edits import array_of, name_of, set_array
from causalrn.calibration.products import BIAS_SUFFIX, Product
from causalrn.calibration.quiet import quiet_quantizer

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


def quantize_activations_dynamically(model: ir.Model, products: Sequence[Product]) -> ir.Model:
    """Every product as MatMulInteger; onnxruntime's quantizer writes it, onnxruntime alone fuses it."""
    with quiet_quantizer(), temporary_folder() as folder:
        path = folder / "quantized.onnx"
        quantize_dynamic(
            ir.to_proto(model),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[product.weight for product in products],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options=_DYNAMIC_OPTIONS,
        )
        return ir.serde.deserialize_model(onnx.load(path))


def quantize_activations_statically(
    model: ir.Model, products: Sequence[Product], limits: Mapping[str, float]
) -> ir.Model:
    """Every product between QuantizeLinear and DequantizeLinear, in the form that TensorRT accepts.

    Args:
        limits: by the name of what is multiplied, the largest |value| that int8 has to hold.
    """
    ranges = {name: TensorData(lowest=np.float32(-limit), highest=np.float32(limit)) for name, limit in limits.items()}
    with quiet_quantizer():
        quantizer = QDQQuantizer(
            ir.to_proto(model),
            per_channel=True,
            reduce_range=True,  # of weights; activations keep 8 bits
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
    quantized = ir.serde.deserialize_model(quantizer.model.model)
    _subtract_biases(quantized)
    return quantized


def _subtract_biases(model: ir.Model) -> None:
    """Write x + b as x - (-b), which is the same bit for bit.

    onnxruntime 1.32 turns MatMul and Add into Gemm before it looks for quantized products, finds none, and computes in
    float32 from weights that it dequantizes at every step: 16 times the time at the paper's size.
    """
    additions = [node for node in model.graph if node.op_type == "Add" and str(node.name).endswith(BIAS_SUFFIX)]
    for node in additions:
        node.op_type = "Sub"
    for name in {name_of(node.inputs[1]) for node in additions}:
        bias = model.graph.initializers[name]
        set_array(bias, -array_of(bias))
