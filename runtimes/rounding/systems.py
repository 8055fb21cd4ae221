"""Rounding errors of systems of linear equations and of means of neighbours, in unit roundoffs: see errors.py."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def inverse_error(out: Tensor, matrix: Tensor, *_: Any, **__: Any) -> Tensor:
    """An error of the matrix goes through the inverse on both sides."""
    return (out.abs() @ matrix.abs() @ out.abs()) * (2 + math.sqrt(matrix.shape[-1]))


def solved_error(out: Tensor, matrix: Tensor, *_: Any, left: bool = True, **__: Any) -> Tensor:
    """An error of the matrix goes through its inverse."""
    inverse: Tensor = torch.linalg.inv_ex(matrix).inverse.abs()
    vector = left and out.ndim == matrix.ndim - 1  # [..., n] in place of [..., n, k]
    size = out.abs().unsqueeze(-1) if vector else out.abs()
    error: Tensor = inverse @ matrix.abs() @ size if left else size @ matrix.abs() @ inverse
    return (error.squeeze(-1) if vector else error) * (2 + math.sqrt(matrix.shape[-1]))


def pooled_error(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Means of neighbours, relative to the largest that there is."""
    return x.abs().max() * (2 + math.sqrt(max(1, x.numel() // max(1, out.numel())) / 3)) + out.abs()
