"""The readouts in parallel form: all positions at once, in memory [B, T, H]. `naive.py` is their definition."""

from __future__ import annotations

import torch
from torch import Tensor

from causalrn.model.config import CausalRNConfig
from causalrn.model.operators.normalize import normalize
from causalrn.model.operators.pair_sum import pair_sum


def readout(a: Tensor, b: Tensor, config: CausalRNConfig) -> Tensor:
    """o_i = mean over j <= i of f(a_i, b_j). Arguments and result: :func:`causalrn.model.readouts.naive.readout`.

    With post-norm and without an eps, o may come out scaled by a positive number per position (the norm cancels it).
    """
    if config.state_kind == "pool":
        return _pool_readout(a, b, config)
    if config.readout == "linear":
        return _linear_readout(a, b, config)
    return _plain_readout(a, b, config)


def _counts(a: Tensor) -> Tensor:
    """1, 2, ..., T as [T, 1] in a's dtype: how many positions each mean is over."""
    return torch.arange(1, a.shape[1] + 1, device=a.device, dtype=a.dtype)[:, None]


def _pool_readout(a: Tensor, b: Tensor, config: CausalRNConfig) -> Tensor:
    if config.readout == "linear":
        a, b = normalize(a, config.norm, config.norm_eps), normalize(b, config.norm, config.norm_eps)
    heads = (*a.shape[:-1], config.heads, config.head_width)
    norm = config.norm if config.readout == "exact" else None
    o = pair_sum(
        a.reshape(heads), b.reshape(heads), activation=config.activation, norm=norm, eps=config.norm_eps
    )  # [B, T, G, D]
    if config.scales_heads:
        o = o / o.amax(-1, keepdim=True)
    if config.counts_positions:
        o = o / _counts(a)[..., None]
    return o.flatten(-2)


def _rescaled(o: Tensor) -> Tensor:
    """Rescaled by the largest channel. Only before a norm, where it cancels, as does the gradient through it."""
    return o / o.detach().amax(-1, keepdim=True)


def _linear_readout(a: Tensor, b: Tensor, config: CausalRNConfig) -> Tensor:
    a, b = normalize(a, config.norm, config.norm_eps), normalize(b, config.norm, config.norm_eps)
    mean = b.exp().cumsum(1) / _counts(a)
    if not config.post_norm or (config.norm_eps and not config.scales_heads):
        return a.exp() * mean
    if config.norm_eps:
        o = (a - a.amax(-1, keepdim=True)).exp() * mean
        return o / o.amax(-1, keepdim=True) / _counts(a)
    # |LN0| reaches sqrt(H - 1): the square of exp(a) * exp(b) overflows float32 for H > 480
    return _rescaled((a - a.detach().amax(-1, keepdim=True)).exp() * mean)


def _plain_readout(a: Tensor, b: Tensor, config: CausalRNConfig) -> Tensor:
    log_o = a + b.logcumsumexp(1) - _counts(a).log()
    if config.post_norm and not config.norm_eps:
        log_o = log_o - log_o.detach().amax(-1, keepdim=True)
    return log_o.exp()
