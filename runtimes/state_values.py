"""What the elements of a stored state mean: pools of int8 or float16 rows as numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from causalrn.bundle.quantization import round_to_int8
from causalrn.bundle.state_spec import StateSpec
from causalrn.runtimes.snapshot import Array


def state_values(spec: StateSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The numbers that a stored state stands for, by tensor; scales are absorbed into the rows that they scale.

    Example:
        a row of int8 (-127, 64, 0) with scale 0.5 is the float32 row (-63.5, 32, 0)
    """
    values = {}
    for tensor in spec.tensors:
        stored = tensors[tensor.name]
        if tensor.scale_name is not None:
            values[tensor.name] = stored * tensors[tensor.scale_name][..., None]
        elif not tensor.is_scale:
            values[tensor.name] = stored.astype(np.float32) if tensor.dtype == "float16" else stored
    return values


def stored_state(spec: StateSpec, values: Mapping[str, Array], dtype: np.dtype[np.floating]) -> dict[str, Array]:
    """The state that stands for these numbers, or for what is nearest to them; `dtype` for what is float32.

    Rows of an int8 pool are rounded by :func:`causalrn.bundle.quantization.round_to_int8`, as the graphs do it.
    """
    stored: dict[str, Array] = {}
    for tensor in spec.tensors:
        if tensor.scale_name is not None:
            row = np.asarray(values[tensor.name], np.float32)
            stored[tensor.name], scale = round_to_int8(row, axis=-1)
            stored[tensor.scale_name] = scale.astype(dtype)
        elif not tensor.is_scale:
            narrow = {"float32": dtype, "bfloat16": np.dtype(np.float32)}  # which numpy does not have
            stored[tensor.name] = np.array(values[tensor.name], narrow.get(tensor.dtype, tensor.dtype))
    return stored
