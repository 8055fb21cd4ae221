"""A block of the baselines in parallel form: pre-norm attention and MLP, as the paper's code has them.

    q, k, v = Wqkv LN0(x)   [B, T, G, D] each, without biases
    x <- x + Wo attention(q, k, v)
    x <- x + W2 gelu(W1 LN0(x) + b1) + b2

Softmax attention weighs v_j by exp(q_i . k_j / sqrt(D)); linear attention (Katharopoulos et al. 2020, arXiv
2006.16236) by phi(q_i) . phi(k_j) with phi = elu + 1, so that sums over j can be carried along. Both divide by the
sum of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from causalrn.model.config import TransformerConfig
from causalrn.model.normalization import without_autocast
from causalrn.model.operators.normalize import normalize

Attention = Callable[[Tensor, Tensor, Tensor, TransformerConfig], Tensor]

_INIT_STD = 0.02


def elu_plus_one(x: Tensor) -> Tensor:
    """elu(x) + 1, without losing what is small: exp(x) below zero, x + 1 above."""
    return torch.exp(x.clamp(max=0)) + torch.relu(x)


def attention(q: Tensor, k: Tensor, v: Tensor, config: TransformerConfig) -> Tensor:
    """Causal attention of all positions at once. Arguments, result: :func:`causalrn.model.readouts.naive.attention`."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, G, T, D]
    if config.attention == "softmax":
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    with without_autocast(q):  # sums over all of the past need float32
        weights = (elu_plus_one(q) @ elu_plus_one(k).mT).tril()  # [B, G, T, T]
        out = weights @ v / weights.sum(-1, keepdim=True)
    return out.transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.fc_1 = nn.Linear(config.embedding, 3 * config.embedding, bias=False)
        self.fc_2 = nn.Linear(config.embedding, config.embedding, bias=False)

    def forward(self, r: Tensor, mixer: Attention) -> Tensor:
        heads = (*r.shape[:-1], self.config.heads, self.config.head_width)
        q, k, v = (part.reshape(heads).to(r.dtype) for part in self.fc_1(r).chunk(3, dim=-1))
        out: Tensor = self.fc_2(mixer(q, k, v, self.config).flatten(-2))
        return out


class _Mlp(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(config.embedding, config.hidden)
        self.fc_2 = nn.Linear(config.hidden, config.embedding)

    def forward(self, r: Tensor) -> Tensor:
        out: Tensor = self.fc_2(functional.gelu(self.fc_1(r)))
        return out


class TransformerBlock(nn.Module):
    """One block: attention, then an MLP, each reading LN0(x) and adding to x. [B, T, E] -> [B, T, E]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attn = _Attention(config)
        self.mlp = _Mlp(config)

    def initialize_outputs(self, blocks: int) -> None:
        """Start what writes to the residual stream smaller, as the official code (and GPT-2) does."""
        for layer in (self.attn.fc_2, self.mlp.fc_2):
            nn.init.normal_(layer.weight, std=_INIT_STD / math.sqrt(2 * blocks))

    def forward(self, x: Tensor, mixer: Attention = attention) -> Tensor:
        """Apply the block with the given form of attention."""
        norm, eps = self.config.norm, self.config.norm_eps
        x = x + self.attn(normalize(x, norm, eps), mixer)
        out: Tensor = x + self.mlp(normalize(x, norm, eps))
        return out
