"""CausalRN in parallel form: [B, T] token ids -> [B, T, V] logits. This is what is trained, and the oracle.

The paper's symbols (arXiv 2406.16168, section 3) and the names here:

    x      residual stream [B, T, E]       r   LN0(x)
    a, b   W1 r + b1, W2 r    [B, T, H]    o   readout: mean over j <= i of f(a_i, b_j)
    x <- x + W3 LN0(o) + b3                logits = Wh LN0(x)

Parameters keep the names of the official code (fc_1, fc_2, fc_3), so that checkpoints read alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from causalrn import parallel_readout
from causalrn.config import ModelConfig
from causalrn.normalization import normalize

Readout = Callable[[Tensor, Tensor, ModelConfig], Tensor]


class Block(nn.Module):
    """One block: read the past through pairs, write to the residual stream. [B, T, E] -> [B, T, E]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fc_1 = nn.Linear(config.embedding, config.hidden, bias=config.bias_1)
        self.fc_2 = nn.Linear(config.embedding, config.hidden, bias=config.bias_2)
        self.fc_3 = nn.Linear(config.hidden, config.embedding, bias=config.bias_3)

    def forward(self, x: Tensor, readout: Readout = parallel_readout.readout) -> Tensor:
        """Apply the block with the given form of the readout."""
        r = normalize(x, self.config.norm)
        o = readout(self.fc_1(r), self.fc_2(r), self.config)
        if self.config.post_norm:
            o = normalize(o, self.config.norm)
        out: Tensor = x + self.fc_3(o)
        return out


class CausalRN(nn.Module):
    """A Causal Relation Network in parallel form.

    Args:
        config: which one; see :class:`causalrn.config.ModelConfig`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocabulary, config.embedding)
        if config.capacity is not None:
            self.wpe = nn.Embedding(config.capacity, config.embedding)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.embedding, config.vocabulary, bias=config.bias_head)
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights with std 0.02 and zero biases, as language models of this kind start."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """wte[token] + wpe[position], [B, T] -> [B, T, E]."""
        x: Tensor = self.wte(tokens)
        return x + self.wpe.weight[: tokens.shape[1]] if self.config.capacity is not None else x

    def forward(self, tokens: Tensor, readout: Readout = parallel_readout.readout) -> Tensor:
        """Logits at every position.

        Args:
            tokens: int64 [B, T], T at most the capacity.
            readout: the form of the readout; tests pass :func:`causalrn.naive.readout`.

        Returns:
            [B, T, V] in the parameters' dtype.
        """
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, readout)
        out: Tensor = self.head(normalize(x, self.config.norm))
        return out

    def oracle(self) -> CausalRN:
        """A float64 copy on the CPU, in evaluation mode: what every other form is judged by."""
        return copy.deepcopy(self).to(device="cpu", dtype=torch.float64).eval().requires_grad_(False)
