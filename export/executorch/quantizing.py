"""int8 by XNNPACK's quantizer: products with weights, one scale for each row of a weight matrix.

Activations get their scale from each call's values, one for all of them. Tables, pools, norms and what reads the state
stay float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

SCHEMES = ("w8a8-dynamic",)
"""Weights alone are left out: XNNPACK's partitioner takes int8 weights only where activations are int8, too."""


def quantize_products(module: GraphModule, example: tuple[Tensor, ...]) -> GraphModule:
    """A module whose products with weights are int8; it is to be exported again.

    Args:
        module: of an exported program, with weights as attributes.
        example: arguments of a call.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    products: Any = torch.ops.aten.linear.default
    observed = prepare_pt2e(module, xnnpack_quantizer.XNNPACKQuantizer().set_operator_type(products, config))
    with torch.no_grad():
        observed(*example)  # observers of weights look at them here
    quantized: GraphModule = convert_pt2e(observed)
    _drop_unused(quantized)
    return quantized


def _drop_unused(module: GraphModule) -> None:
    """Delete weights that int8 ones have replaced: programs would keep them."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_buffers()):
        if name not in used:
            parent, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(parent), leaf)
