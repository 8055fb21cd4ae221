"""A rule of a quantization scheme of one's own: an edit of a graph. CONTRIBUTING.md walks through it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from causalrn.calibration.graph_edits import array_of, set_array
from causalrn.calibration.products import find_products


def round_weights(model: ir.Model, bits: int) -> None:
    """Round the weight of every product to so many bits, with a scale per output, and keep it in float32.

    Args:
        model: an exported graph, changed in place: no node is added, so that any runtime takes it.
        bits: sign included.
    """
    largest = (1 << (bits - 1)) - 1
    for product in find_products(model):
        weight = model.graph.initializers[product.weight]
        values = array_of(weight)  # [outputs, inputs]
        scale = np.abs(values).max(axis=1, keepdims=True) / largest
        set_array(weight, (np.rint(values / scale) * scale).astype(np.float32))
