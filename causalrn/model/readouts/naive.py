"""The definition: every readout, and attention, written as the formula says. Slow and plain on purpose.

Nothing runs this but tests: the fast parallel form and the recurrent cell are measured against it. Formulas:
arXiv 2406.16168, section 3; LN0 is normalization without affine part. Its eps, 0 in the paper, stands beside the root.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from causalrn.model.config import CausalRNConfig, TransformerConfig


def ln0(x: Tensor, norm: str, eps: float = 0.0) -> Tensor:
    """LN0 over the last axis, or its RMS variant: x / (rms(x) + eps). [..., n] -> [..., n].

    A vector without any spread gives zeros.
    """
    if norm == "layer":
        spread = x - x.mean(-1, keepdim=True)
        spread = torch.where((x == x[..., :1]).all(-1, keepdim=True), torch.zeros_like(x), spread)
    else:
        spread = x
    mean_square = (spread * spread).mean(-1, keepdim=True)
    out = spread / (torch.sqrt(mean_square.clamp(min=1e-30)) + eps)
    return torch.where(torch.isfinite(mean_square), out, torch.full_like(out, torch.nan))


def activate(x: Tensor, activation: str) -> Tensor:
    """The outer function of f, elementwise."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "exp": torch.exp,
        "elu": torch.nn.functional.elu,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
    }
    return functions[activation](x)


def readout(a: Tensor, b: Tensor, config: CausalRNConfig) -> Tensor:
    """o_i = mean over j <= i of f(a_i, b_j), with the head scale if the model has one.

    The scale is of the sum, and without post-norm takes the mean's place; with post-norm the mean is taken after it,
    which only an eps can tell.

    Args:
        a, b: [B, T, H], any floating dtype.
        config: names the readout, activation, heads and norm.

    Returns:
        o, [B, T, H].
    """
    batch, time, hidden = a.shape
    if config.readout == "linear":
        a, b = ln0(a, config.norm, config.norm_eps), ln0(b, config.norm, config.norm_eps)
    heads = (batch, time, config.heads, config.head_width)
    a, b = a.reshape(heads), b.reshape(heads)
    pairs = a[:, :, None] + b[:, None, :]  # [B, T, T, G, D]
    if config.readout == "exact":
        pairs = ln0(pairs, config.norm, config.norm_eps)
    past = torch.tril(torch.ones(time, time, dtype=torch.bool, device=a.device))
    values = activate(pairs, config.activation)
    values = torch.where(past[None, :, :, None, None], values, torch.zeros_like(values))
    o = values.sum(2)  # [B, T, G, D]
    if config.head_scale == "max":
        o = o / o.amax(-1, keepdim=True)
    if config.head_scale == "none" or config.post_norm:
        o = o / torch.arange(1, time + 1, device=a.device, dtype=a.dtype)[:, None, None]
    return o.reshape(batch, time, hidden)


def attention(q: Tensor, k: Tensor, v: Tensor, config: TransformerConfig) -> Tensor:
    """o_i = sum over j <= i of w_ij v_j / sum of w_ij, position by position.

    w_ij is exp(q_i . k_j / sqrt(D)) for softmax, phi(q_i) . phi(k_j) with phi = elu + 1 for linear attention.

    Args:
        q, k, v: [B, T, G, D], any floating dtype.
        config: names the kind of attention.

    Returns:
        o, [B, T, G, D].
    """
    out = torch.empty_like(v)
    for i in range(q.shape[1]):
        queries, keys = q[:, i, None], k[:, : i + 1]  # [B, 1, G, D], [B, i + 1, G, D]
        if config.attention == "softmax":
            scores = (queries * keys).sum(-1) / config.head_width**0.5  # [B, i + 1, G]
            weights = torch.exp(scores - scores.amax(1, keepdim=True))
        else:
            elu = torch.nn.functional.elu
            weights = ((elu(queries) + 1) * (elu(keys) + 1)).sum(-1)
        out[:, i] = (weights[..., None] * v[:, : i + 1]).sum(1) / weights.sum(1)[..., None]
    return out
