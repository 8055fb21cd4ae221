"""The readouts in recurrent form: T >= 1 new positions read the state and themselves. Written once, exported from.

Time-major layout: a and b are [T * B, H], row t * B + b; pools are [t, B, H]. a and b come centred (folding.py), so
pairs need an RMS norm only. Sums are not divided by the number of positions here.

Forms were chosen by measurement in onnxruntime (docs/numerics.md): the step forms all pair sums, self included, in one
matrix product, and sums over positions by a matrix product with ones (ReduceSum takes 1.4x the time).
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from causalrn.model.config import CausalRNConfig
from causalrn.model.normalization import MEAN_SQUARE_FLOOR, Eps, has_eps

ACTIVATIONS = {"exp": torch.exp, "relu": torch.relu, "elu": functional.elu, "gelu": functional.gelu}


def rms_norm(x: Tensor, ones: Tensor, eps: Eps = 0.0) -> Tensor:
    """RMS norm over the last axis. The explicit ones export as [n]; without them as a full-shape scale, 3x slower.

    An eps stands beside the root, where no operator of ONNX has one: then the norm is written out.
    """
    if has_eps(eps):
        return x / ((x * x).mean(-1, keepdim=True).sqrt() + eps)
    return functional.rms_norm(x, (ones.shape[0],), ones, eps=MEAN_SQUARE_FLOOR)


def layer_norm(x: Tensor, ones: Tensor, eps: Eps = 0.0) -> Tensor:
    """Layer norm over the last axis, of what no weights could centre before."""
    if has_eps(eps):
        return rms_norm(x - x.mean(-1, keepdim=True), ones, eps)
    return functional.layer_norm(x, (ones.shape[0],), ones, eps=MEAN_SQUARE_FLOOR)


def rms_norm_or_nan(x: Tensor, ones: Tensor, eps: Eps = 0.0) -> Tensor:
    """:func:`rms_norm`, with NaN where the mean square overflows instead of zeros; for streams without a bound."""
    mean_square = x.square().mean(-1, keepdim=True)
    nan = torch.full_like(mean_square, torch.nan)
    return rms_norm(x, ones, eps) + torch.where(mean_square < torch.inf, torch.zeros_like(mean_square), nan)


def count_up(count: int, position: Tensor, known: Tensor | None) -> Tensor:
    """[count], of the position's dtype: 0, 1, ...

    Args:
        known: more of them, as a constant: graphs then slice it, where some runtimes have no Range, and most compute
            the lengths of ranges badly that depend on shapes.
    """
    if known is None:
        return torch.arange(count, device=position.device, dtype=position.dtype)
    return known[:count].to(position.dtype)


def positions(position: Tensor, time: int, known: Tensor | None = None) -> Tensor:
    """[T]: position, position + 1, ...; `known` as in :func:`count_up`."""
    first = position.reshape(1)
    return first if time == 1 else first + count_up(time, position, known)


def step_masks(
    rows: int, position: Tensor, *, fixed: bool, dtype: torch.dtype, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What one step reads of a pool view with `rows` rows: `position` + 1, or all of a fixed pool.

    Args:
        known: as in :func:`count_up`.

    Returns:
        terms [rows, 2]: pair row j is terms[j] @ [a; b] + pool[j], so (1, 1) for the new position's own row, whose
            slot in the pool is zero, and (1, 0) for the past.
        weights [1, rows]: 1 for rows that exist, 0 for the empty rows of a fixed pool.
    """
    index = count_up(rows, position, known)
    own = (index == position).to(dtype)
    exists = (index <= position).to(dtype) if fixed else torch.ones_like(own)
    return torch.stack([torch.ones_like(own), own], 1), exists[None]


def prefill_weights(
    past_rows: int, time: int, position: Tensor, *, dtype: torch.dtype, known: Tensor | None = None
) -> Tensor:
    """[T, 1, t + T]: which rows (past, then own) each of T new positions reads; 1 or 0. `known`: see :func:`count_up`.

    Past rows at and beyond the position are a fixed pool's empty ones. Written without arithmetic on numbers of rows,
    which runtimes with shapes of their own do not follow.
    """
    row, query = count_up(past_rows, position, known), count_up(time, position, known)
    past = torch.logical_and(row < position, row <= (position + query)[:, None])  # [T, t]; the second: for every query
    own = query <= query[:, None]  # [T, T]
    return torch.cat([past, own], 1).to(dtype)[:, None]


def pairs_to_sum(
    pairs: Tensor, weights: Tensor, ones: Tensor, config: CausalRNConfig, *, single_row: bool = False
) -> Tensor:
    """Activate pair sums and add them up over positions.

    Args:
        pairs: [..., n, B * H], a + b_j.
        weights: [..., 1, n], 1 for positions that are read: the mask comes after the activation, never before it.
        ones: [D].
        single_row: B = G = 1, so that rows are normalized as they are; a Reshape costs as much as a small kernel.

    Returns:
        [..., 1, B * H].
    """
    if config.readout == "exact":
        by_head = pairs if single_row else pairs.reshape(*pairs.shape[:-1], -1, config.head_width)
        pairs = rms_norm(by_head, ones, config.norm_eps)
        pairs = pairs if single_row else pairs.flatten(-2)
    return weights @ ACTIVATIONS[config.activation](pairs)


def read_pool_step(
    ab: Tensor, pool: Tensor, terms: Tensor, weights: Tensor, ones: Tensor, config: CausalRNConfig, *, single_row: bool
) -> Tensor:
    """One new position reads a pool whose slot for it is zero. ab [2, B * H], pool [n, B, H] -> [B, H]."""
    rows = pool.reshape(-1, config.hidden) if single_row else pool.flatten(1)
    o = pairs_to_sum(torch.addmm(rows, terms, ab), weights, ones, config, single_row=single_row and config.heads == 1)
    return o if single_row else o.reshape(-1, config.hidden)


def read_pool(a: Tensor, rows: Tensor, weights: Tensor, ones: Tensor, config: CausalRNConfig) -> Tensor:
    """T new positions read `rows`, their own too. a [T, B, H], rows [n, B, H], weights [T, 1, n] -> [T * B, H]."""
    pairs = a.flatten(1)[:, None] + rows.flatten(1)  # [T, n, B * H]
    return pairs_to_sum(pairs, weights, ones, config).reshape(-1, config.hidden)


def read_sum(value: Tensor, past: Tensor) -> Tensor:
    """Running sums over a chunk: value [T, B, H], past [B, H] -> sums [T, B, H], the last being the next state.

    CumSum over (past, values), not past + CumSum(values): only that adds in the same order as single steps do.
    """
    return torch.cat([past[None], value]).cumsum(0)[1:]


def read_compensated_sum(local: Tensor, past: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums over a stream without end, with what rounding takes from them carried along (Kahan 1965).

    Without it a million steps end with an error of 1e-3 in the logits, with it 1e-6 (benchmarks/long_stream.py).

    Args:
        local: sums over the chunk alone, [T, B, H]; past, carry: [B, H].

    Returns:
        sums [T, B, H], the last being the next state, and the next carry [B, H].
    """
    added = local - carry
    sums = past + added
    return sums, (sums[-1] - past) - added[-1]


def read_log_sum_step(b: Tensor, past_max: Tensor, past_sum: Tensor) -> tuple[Tensor, Tensor]:
    """One position of :func:`read_log_sum`; all [B, H]. Returns the next maximum and the next sum."""
    maximum = torch.maximum(past_max, b)
    return maximum, past_sum * torch.exp(past_max - maximum) + torch.exp(b - maximum)


def read_log_sum(
    b: Tensor, past_max: Tensor, past_sum: Tensor, position: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Running sum_j exp(b_j) over a chunk, as maxima and sums scaled by them.

    Each query gets its own maximum: subtracting the chunk's maximum would lose the early positions.

    Args:
        b: [T, B, H]; past_max, past_sum: [B, H].
        position: its dtype counts the positions; `known`: see :func:`count_up`.

    Returns:
        maxima and sums, both [T, B, H], the last of each being the next state.
    """
    values = torch.cat([past_max[None], b])  # [T + 1, B, H]
    scales = torch.cat([past_sum[None], torch.ones_like(b)])
    query = count_up(b.shape[0], position, known)
    later = query > query[:, None]  # [T, T]; its first column says "not later", as it is with the past
    future = torch.cat([later[:, :1], later], 1)[:, :, None, None]  # [T, T + 1, 1, 1]
    reach = values.masked_fill(future, -torch.inf)  # [T, T + 1, B, H]
    maxima = reach.amax(1)
    return maxima, (torch.exp(reach - maxima[:, None]) * scales).sum(1)
