"""What the cells of all models share below the frame in cell.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Norm = Callable[[Tensor], Tensor]
"""LN0 of the residual stream, [T * B, E] -> [T * B, E]."""

State = tuple[Tensor, ...]


def rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A folded weight in the cell's dtype."""
    return None if tensor is None else tensor.detach().to(dtype)
