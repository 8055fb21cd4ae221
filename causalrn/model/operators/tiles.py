"""The sum over pairs in PyTorch, tile by tile: what every device and dtype has, and other kernels are compared with.

The naive form holds [B, T, T, H] and autograd keeps four copies of it. Here both passes walk over tiles of pairs that
fit a cache, and the backward pass computes them again. The mean square of a pair is computed from the pair sum itself;
its expansion |q|^2 + |k|^2 + 2 q.k is faster on paper and cancels catastrophically where k is near -q
(docs/numerics.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from causalrn.model.normalization import MEAN_SQUARE_FLOOR, centre, inverse_rms
from causalrn.model.operators.functions import PairFunction

DEVICE, WITHOUT_IT = "", ""  # no device's first choice
AUTOMATIC = True
DTYPES: tuple[torch.dtype, ...] = ()
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
    """Queries i0:i1 against keys j0:j1; `future` [i, j, 1, 1] is None where there is none of them."""

    queries: slice
    keys: slice
    future: Tensor | None


def why_not(device: str, dtype: torch.dtype) -> str:
    """PyTorch has what tiles need for every device and dtype."""
    return ""


def sum_pairs(q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
    """See :class:`causalrn.model.operators.kernels.Kernel`."""
    q, k = _centred(q, k, function)
    scratch, out = _Scratch(q, k, 1), torch.zeros_like(q)
    for tile in _tiles(q, k):
        (pairs,) = scratch.views(tile)
        torch.add(q[:, tile.queries, None], k[:, None, tile.keys], out=pairs)
        if function.norm is not None:
            pairs.mul_(inverse_rms(pairs, function.eps))
        ACTIVATIONS[function.activation].value(pairs, pairs)
        if tile.future is not None:  # after the activation, never before it
            pairs.masked_fill_(tile.future, 0)
        out[:, tile.queries] += pairs.sum(2)
    return out


def differentiate_pairs(q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction) -> tuple[Tensor, Tensor]:
    """See :class:`causalrn.model.operators.kernels.Kernel`."""
    q, k = _centred(q, k, function)
    scratch, grad_q, grad_k = _Scratch(q, k, 2), torch.zeros_like(q), torch.zeros_like(k)
    for tile in _tiles(q, k):
        pairs, grad = scratch.views(tile)
        torch.add(q[:, tile.queries, None], k[:, None, tile.keys], out=pairs)
        scale = inverse_rms(pairs, function.eps) if function.norm is not None else None
        if scale is not None:
            pairs.mul_(scale)
        ACTIVATIONS[function.activation].value(pairs, grad)
        ACTIVATIONS[function.activation].slope(pairs, grad)
        grad.mul_(gradient[:, tile.queries, None])
        if scale is not None:
            # d LN0: (g - n mean(g n)) / rms; the centring of g happens once, at the end
            along = torch.linalg.vecdot(grad, pairs)[..., None] / q.shape[-1]
            if function.eps:  # times (rms + eps) / rms, which is 1 / rms(n)
                along /= pairs.square().mean(-1, keepdim=True).sqrt().clamp_min(MEAN_SQUARE_FLOOR)
            grad.addcmul_(pairs, along, value=-1).mul_(scale)
        if tile.future is not None:
            grad.masked_fill_(tile.future, 0)
        grad_q[:, tile.queries] += grad.sum(2)
        grad_k[:, tile.keys] += grad.sum(1)
    if function.norm == "layer":
        grad_q, grad_k = (grad - grad.mean(-1, keepdim=True) for grad in (grad_q, grad_k))
    return grad_q, grad_k


def _centred(q: Tensor, k: Tensor, function: PairFunction) -> tuple[Tensor, Tensor]:
    """LN0 centres a sum, so it may centre the terms: once, not once per pair."""
    return (centre(q), centre(k)) if function.norm == "layer" else (q, k)


class _Scratch:
    """Buffers for tiles, allocated once per pass: allocating them per tile fragments the heap to 4x the memory."""

    def __init__(self, q: Tensor, k: Tensor, count: int) -> None:
        batch, _, heads, width = q.shape
        self.width = (heads, width)
        self.batch = batch
        self.buffers = [q.new_empty(batch * _tile_side(q, k) ** 2 * heads * width) for _ in range(count)]

    def views(self, tile: _Tile) -> list[Tensor]:
        """The buffers as [B, i, j, G, D]."""
        i, j = (part.stop - part.start for part in (tile.queries, tile.keys))
        shape = (self.batch, i, j, *self.width)
        return [buffer[: math.prod(shape)].view(shape) for buffer in self.buffers]


def _tile_side(q: Tensor, k: Tensor) -> int:
    """Queries, and keys, of one tile: as many as make its pairs about a cache in size."""
    batch, _, heads, width = q.shape
    tile_bytes = _CPU_TILE_BYTES if q.device.type == "cpu" else _GPU_TILE_BYTES
    side = math.isqrt(tile_bytes // max(1, batch * heads * width * q.element_size()))
    return min(max(side, 1), k.shape[1])


def _tiles(q: Tensor, k: Tensor) -> Iterator[_Tile]:
    """Square tiles of pairs that cover the past."""
    time, past, side = q.shape[1], k.shape[1] - q.shape[1], _tile_side(q, k)
    for i0 in range(0, time, side):
        i1 = min(i0 + side, time)
        for j0 in range(0, past + i1, side):
            j1 = min(j0 + side, past + i1)
            future = None
            if j1 - 1 > past + i0:  # the last key lies in the future of the first query
                i = torch.arange(past + i0, past + i1, device=q.device)[:, None, None, None]
                future = torch.arange(j0, j1, device=q.device)[None, :, None, None] > i
            yield _Tile(slice(i0, i1), slice(j0, j1), future)
