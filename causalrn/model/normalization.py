"""LN0: normalization without affine part and with eps 0, safe where the official one is not.

Differences from the official code, on purpose (docs/numerics.md): a vector without any spread gives zeros, not
NaN; a mean square that overflows gives NaN, never zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEAN_SQUARE_FLOOR = 1e-30
"""Mean squares are clamped here (or get this as an epsilon, in exported graphs): nothing but zero notices."""


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which mixed precision leaves operations on `x` alone."""
    return torch.autocast(x.device.type, enabled=False)


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis; a constant vector becomes exactly zero. [..., n] -> [..., n]."""
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)).masked_fill(constant, 0.0)


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean square) over the last axis, [..., n] -> [..., 1]; NaN where the mean square overflows."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    inverse: Tensor = mean_square.clamp_min(MEAN_SQUARE_FLOOR).rsqrt() + 0 * mean_square
    return inverse


def normalize(x: Tensor, norm: str) -> Tensor:
    """LN0 ("layer") or its RMS variant ("rms") over the last axis, [..., n] -> [..., n]."""
    out: Tensor = _Normalize.apply(x, norm == "layer")  # type: ignore[no-untyped-call]
    return out


class _Normalize(torch.autograd.Function):
    """Keeps its result for the backward pass, which the next linear map keeps anyway: no memory of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool) -> Tensor:
        x = centre(x) if centred else x
        scale = inverse_rms(x)
        out = x * scale
        ctx.save_for_backward(out, scale)
        ctx.centred = centred
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        out, scale = ctx.saved_tensors
        grad = (grads[0] - out * (grads[0] * out).mean(-1, keepdim=True)) * scale
        if ctx.centred:
            grad = grad - grad.mean(-1, keepdim=True)
        return grad, None
