"""The sum over pairs, sum_{j<=i} f(q_i + k_j), in tiles: the exact readout's parallel form.

The naive form holds [B, T, T, H] and autograd keeps four copies of it. Here both passes walk over tiles of
pairs that fit a cache, and the backward pass computes them again: memory stays at [B, T, H].
The mean square of a pair is computed from the pair sum itself; its expansion |q|^2 + |k|^2 + 2 q.k is faster on
paper and cancels catastrophically where k is near -q (docs/numerics.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from causalrn.model.normalization import MEAN_SQUARE_FLOOR, centre, inverse_rms

_CPU_TILE_BYTES = 1 << 20  # half a core's L2: within 6 % of the best of 2^18 .. 2^23, benchmarks/training_memory.py
_GPU_TILE_BYTES = 1 << 27
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)


class Activation(NamedTuple):
    """f's outer function and its derivative, written into buffers that the caller owns.

    ``value(x, out)`` fills `out`, which may be `x`; ``slope(x, value)`` turns a buffer of values into one of slopes.
    """

    value: Callable[[Tensor, Tensor], object]
    slope: Callable[[Tensor, Tensor], object]


def _gelu_slope(x: Tensor, value: Tensor) -> Tensor:
    return value.copy_(torch.special.ndtr(x) + x * torch.exp(-0.5 * x * x) * _INV_SQRT_2PI)


ACTIVATIONS = {
    "exp": Activation(lambda x, out: torch.exp(x, out=out), lambda x, value: value),
    "relu": Activation(
        lambda x, out: torch.clamp(x, min=0, out=out),
        lambda x, value: value.copy_(x > 0),
    ),
    "elu": Activation(
        lambda x, out: out.copy_(functional.elu(x)),
        lambda x, value: value.add_(1).masked_fill_(x > 0, 1.0),
    ),
    "gelu": Activation(lambda x, out: out.copy_(functional.gelu(x)), _gelu_slope),
}


class _Tile(NamedTuple):
    """Queries i0:i1 against keys j0:j1; `mask` [i, j, 1, 1] is None where every key is in every query's past."""

    queries: slice
    keys: slice
    mask: Tensor | None


def pair_sum(q: Tensor, k: Tensor, *, activation: str, norm: str | None, eps: float = 0.0) -> Tensor:
    """Sum f(q_i + k_j) over j <= i, with f = activation after an optional LN0 over the last axis.

    Args:
        q, k: [B, T, G, D], same floating dtype.
        activation: one of :data:`ACTIVATIONS`.
        norm: "layer" or "rms" to normalize every pair (the exact readout), None for none.
        eps: of that norm.

    Returns:
        [B, T, G, D], not divided by the number of positions.
    """
    if norm == "layer":
        q, k = centre(q), centre(k)  # LN0 centres a sum, so it may centre the terms: once, not once per pair
    out: Tensor = _PairSum.apply(q, k, activation, norm is not None, eps)  # type: ignore[no-untyped-call]
    return out


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, activation: str, normalized: bool, eps: float) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.options = (activation, normalized, eps)
        scratch, out = _Scratch(q, 1), torch.zeros_like(q)
        for tile in _tiles(q):
            (pairs,) = scratch.views(tile)
            torch.add(q[:, tile.queries, None], k[:, None, tile.keys], out=pairs)
            if normalized:
                pairs.mul_(inverse_rms(pairs, eps))
            ACTIVATIONS[activation].value(pairs, pairs)
            if tile.mask is not None:  # after the activation, never before it
                pairs.mul_(tile.mask)
            out[:, tile.queries] += pairs.sum(2)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        q, k = ctx.saved_tensors
        activation, normalized, eps = ctx.options
        scratch, grad_q, grad_k = _Scratch(q, 2), torch.zeros_like(q), torch.zeros_like(k)
        for tile in _tiles(q):
            pairs, grad = scratch.views(tile)
            torch.add(q[:, tile.queries, None], k[:, None, tile.keys], out=pairs)
            scale = inverse_rms(pairs, eps) if normalized else None
            if scale is not None:
                pairs.mul_(scale)
            ACTIVATIONS[activation].value(pairs, grad)
            ACTIVATIONS[activation].slope(pairs, grad)
            grad.mul_(grads[0][:, tile.queries, None])
            if scale is not None:
                # d LN0: (g - n mean(g n)) / rms; the centring of g happens once, in autograd of `centre`
                along = torch.linalg.vecdot(grad, pairs)[..., None] / q.shape[-1]
                if eps:  # times (rms + eps) / rms, which is 1 / rms(n)
                    along /= pairs.square().mean(-1, keepdim=True).sqrt().clamp_min(MEAN_SQUARE_FLOOR)
                grad.addcmul_(pairs, along, value=-1).mul_(scale)
            if tile.mask is not None:
                grad.mul_(tile.mask)
            grad_q[:, tile.queries] += grad.sum(2)
            grad_k[:, tile.keys] += grad.sum(1)
        return grad_q, grad_k, None, None, None


class _Scratch:
    """Buffers for tiles, allocated once per pass: allocating them per tile fragments the heap to 4x the memory."""

    def __init__(self, q: Tensor, count: int) -> None:
        batch, _, heads, width = q.shape
        self.width = (heads, width)
        self.batch = batch
        self.buffers = [q.new_empty(batch * _tile_side(q) ** 2 * heads * width) for _ in range(count)]

    def views(self, tile: _Tile) -> list[Tensor]:
        """The buffers as [B, i, j, G, D]."""
        i, j = (part.stop - part.start for part in (tile.queries, tile.keys))
        shape = (self.batch, i, j, *self.width)
        return [buffer[: math.prod(shape)].view(shape) for buffer in self.buffers]


def _tile_side(q: Tensor) -> int:
    """Queries, and keys, of one tile: as many as make its pairs about a cache in size."""
    batch, time, heads, width = q.shape
    tile_bytes = _CPU_TILE_BYTES if q.device.type == "cpu" else _GPU_TILE_BYTES
    side = math.isqrt(tile_bytes // max(1, batch * heads * width * q.element_size()))
    return min(max(side, 1), time)


def _tiles(q: Tensor) -> Iterator[_Tile]:
    """Square tiles of pairs that cover the past."""
    time, side = q.shape[1], _tile_side(q)
    for i0 in range(0, time, side):
        i1 = min(i0 + side, time)
        for j0 in range(0, i1, side):
            j1 = min(j0 + side, i1)
            mask = None
            if j1 - 1 > i0:  # the last key lies in the future of the first query
                i = torch.arange(i0, i1, device=q.device)[:, None, None, None]
                j = torch.arange(j0, j1, device=q.device)[None, :, None, None]
                mask = (j <= i).to(q.dtype)
            yield _Tile(slice(i0, i1), slice(j0, j1), mask)
