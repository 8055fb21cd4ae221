"""Quantized products, by the quantizer that ExecuTorch has for XNNPACK."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

DYNAMIC = "w8a8-dynamic"
"""Weights int8 with a scale per output, activations int8 with a scale and a zero point for each call."""


def quantize_products(program: ExportedProgram, arguments: tuple[Tensor, ...]) -> nn.Module:
    """A module that computes the same with int8 products; what it reads of the state, and norms, stay float32.

    Args:
        program: of a cell's call.
        arguments: of one such call, for shapes: scales of activations are computed when it runs.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer: Any = XNNPACKQuantizer()
    settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer.set_operator_type(torch.ops.aten.linear.default, settings)
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        prepared(*arguments)  # observers look at the weights
    quantized: nn.Module = convert_pt2e(prepared)
    return quantized
