"""Rounds the weight matrices of a .tflite file to int8, one scale per row, with ai-edge-quantizer.

Products with weights only: tables stay float32, and so do the products over a pool. Static scales are left out: they
would give the input and the output of one state different ones.
"""

from __future__ import annotations

from causalrn.errors import ConfigError
from causalrn.export.converter_noise import quiet_converter

SCHEMES = ("w8", "w8a8-dynamic")
"""Weights alone, each product dequantizing them; activations, too, by scales that are computed in each call."""
_BITS = 8


def quantize_model(content: bytes, scheme: str) -> bytes:
    """A .tflite file with int8 weights.

    Args:
        content: the file in float32.
        scheme: one of :data:`SCHEMES`.

    Raises:
        ConfigError: another scheme.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"`scheme` {scheme} is nothing that LiteRT has: choose from {', '.join(SCHEMES)}")
    with quiet_converter("ai-edge-quantizer"):
        from ai_edge_quantizer import qtyping, quantizer

        rounding = quantizer.Quantizer(content)
        add = rounding.add_weight_only_config if scheme == "w8" else rounding.add_dynamic_config
        add(".*", qtyping.TFLOperationName.FULLY_CONNECTED, num_bits=_BITS)
        quantized: bytes = bytes(rounding.quantize().quantized_model)
    return quantized
