"""Float64 that stays float64: a reference of models that compute parts of themselves in float32 at least.

Norms, softmaxes and recurrences of most models in transformers begin with `x.to(torch.float32)`. This guards float16
and bfloat16; of a float64 copy it leaves float32's accuracy, about 1e-7 to 1e-5 of the largest logit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})
"""What nothing is rounded to."""


class KeptFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's __init_subclass__ has no types
    """Operations inside that ask for a narrower dtype give float64; tensors that are narrower take part as float64."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch with every operation. What is written in place keeps its dtype."""
        widen = _widen_dtype if func._schema.is_mutable else _widen
        return func(*tree_map(widen, args), **tree_map(widen, kwargs or {}))


def _widen_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in NARROW:
        return value.to(torch.float64)
    return _widen_dtype(value)
