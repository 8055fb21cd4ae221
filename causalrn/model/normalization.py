"""LN0: normalization without affine part, with eps 0 unless the model has one; safe where the official one is not.

An eps is added to the standard deviation (or root mean square), beside the root and not under it: x / (rms(x) + eps),
as the official code has it. PyTorch and ONNX have theirs under the root.

Differences from the official code, on purpose (docs/numerics.md): a vector without any spread gives zeros, not
NaN; a mean square that overflows gives NaN, never zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Eps = float | Tensor
"""Of a norm; a tensor [..., 1] has one for every vector."""

MEAN_SQUARE_FLOOR = 1e-30
"""Mean squares are clamped here (or get this as an epsilon, in exported graphs): nothing but zero notices."""


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which mixed precision leaves operations on `x` alone."""
    return torch.autocast(x.device.type, enabled=False)


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis; a constant vector becomes exactly zero. [..., n] -> [..., n].

    Two channels become (d, -d): LN0 of them is a sign, and x - mean would round the two differently, which shows as
    an error of 1e-2 where they nearly agree.
    """
    if x.shape[-1] == 2:
        half = x / 2
        spread = half[..., :1] - half[..., 1:]
        return torch.cat([spread, -spread], -1)
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)).masked_fill(constant, 0.0)


def inverse_rms(x: Tensor, eps: Eps = 0.0) -> Tensor:
    """1 / (sqrt(mean square) + eps) over the last axis, [..., n] -> [..., 1]; NaN where the mean square overflows."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    inverse: Tensor
    if has_eps(eps):
        inverse = (mean_square.sqrt() + eps).reciprocal() + 0 * mean_square
        return inverse
    inverse = mean_square.clamp_min(MEAN_SQUARE_FLOOR).rsqrt() + 0 * mean_square
    return inverse


def has_eps(eps: Eps) -> bool:
    """Whether an eps is one that counts; without one, x / rms(x) is computed as if there were none."""
    return isinstance(eps, Tensor) or eps > 0


def gradient_through(grad: Tensor, out: Tensor, scale: Tensor, eps: Eps) -> Tensor:
    """What of a gradient by out = x * scale, scale = 1 / (rms(x) + eps), goes on to x; all [..., n], scale [..., 1].

    (g - out mean(g out) (rms + eps) / rms) scale: the last ratio is 1 / rms(out), which needs no x.
    """
    along = (grad * out).mean(-1, keepdim=True)
    if has_eps(eps):
        along = along / out.square().mean(-1, keepdim=True).sqrt().clamp_min(MEAN_SQUARE_FLOOR)
    return (grad - out * along) * scale


def normalize(x: Tensor, norm: str, eps: Eps = 0.0) -> Tensor:
    """LN0 ("layer") or its RMS variant ("rms") over the last axis, [..., n] -> [..., n]; eps a number or [..., 1].

    Models call :func:`causalrn.model.operators.normalize.normalize`, which has faster kernels for the same.
    """
    out: Tensor = _Normalize.apply(x, norm == "layer", eps)  # type: ignore[no-untyped-call]
    return out


class _Normalize(torch.autograd.Function):
    """Keeps its result for the backward pass, which the next linear map keeps anyway: no memory of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool, eps: Eps) -> Tensor:
        x = centre(x) if centred else x
        scale = inverse_rms(x, eps)
        out = x * scale
        ctx.save_for_backward(out, scale)
        ctx.centred, ctx.eps = centred, eps
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        out, scale = ctx.saved_tensors
        grad = gradient_through(grads[0], out, scale, ctx.eps)
        if ctx.centred:
            grad = grad - grad.mean(-1, keepdim=True)
        return grad, None, None
