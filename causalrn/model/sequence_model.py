"""Models in parallel form: [B, T] token ids -> [B, T, V] logits. This is what is trained, and the oracle.

The frame that a CausalRN shares with its baselines; what happens in a block is in causalrn_block.py and
transformer_block.py:

    x = wte[token] + wpe[position]   [B, T, E]
    x <- block(x)                    N times
    logits = Wh LN0(x)               [B, T, V]

Parameters keep the names of the official code (fc_1, fc_2, ...), so that checkpoints read alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from causalrn.errors import CheckpointError
from causalrn.model.causalrn_block import CausalRNBlock
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.operators.normalize import normalize
from causalrn.model.transformer_block import TransformerBlock

Mixer = Callable[..., Tensor]
"""How a block reads the past: (a, b, config) for a readout, (q, k, v, config) for attention."""


class SequenceModel(nn.Module):
    """A CausalRN or one of its baselines, in parallel form.

    Args:
        config: which one; see :mod:`causalrn.model.config`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocabulary, config.embedding)
        if config.capacity is not None:
            self.wpe = nn.Embedding(config.capacity, config.embedding)
        self.blocks = nn.ModuleList(_make_block(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.embedding, config.vocabulary, bias=config.bias_head)
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights with std 0.02 and zero biases, as language models of this kind start."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            if isinstance(block, TransformerBlock):
                block.initialize_outputs(len(self.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """wte[token] + wpe[position], [B, T] -> [B, T, E]."""
        x: Tensor = self.wte(tokens)
        return x + self.wpe.weight[: tokens.shape[1]] if self.config.capacity is not None else x

    def forward(self, tokens: Tensor, mixer: Mixer | None = None) -> Tensor:
        """Logits at every position.

        Args:
            tokens: int64 [B, T], T at most the capacity.
            mixer: how blocks read the past; tests pass the definitions in :mod:`causalrn.model.readouts.naive`.

        Returns:
            [B, T, V] in the parameters' dtype.
        """
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x) if mixer is None else block(x, mixer)
        out: Tensor = self.head(normalize(x, self.config.norm, self.config.norm_eps))
        return out

    def set_config(self, config: ModelConfig) -> None:
        """Read these weights with another configuration of the same kind and sizes."""
        for module in self.modules():
            if hasattr(module, "config"):
                module.config = config  # type: ignore[assignment]

    def oracle(self) -> SequenceModel:
        """A float64 copy on the CPU, in evaluation mode: what every other form is judged by."""
        return copy.deepcopy(self).to(device="cpu", dtype=torch.float64).eval().requires_grad_(False)


def _make_block(config: ModelConfig) -> nn.Module:
    if isinstance(config, TransformerConfig):
        return TransformerBlock(config)
    assert isinstance(config, CausalRNConfig)
    return CausalRNBlock(config)


class _Uninitialized(TorchFunctionMode):
    """Inside, weights are not filled: on the device "meta" that takes PyTorch two seconds of imports (torch 2.13)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let functions of torch.nn.init give back what they were to fill."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def check_shapes(config: ModelConfig, shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """Check that weights of these names and shapes are a model's, before memory is taken for the model.

    Args:
        source: named in errors.

    Raises:
        CheckpointError: something is missing, left over, or of another shape.
    """
    last = f"blocks.{config.blocks - 1}."
    if not any(name.startswith(last) for name in shapes):
        raise CheckpointError(f"{source}: lacks {last}*: the weights belong to another configuration")
    with torch.device("meta"), _Uninitialized():  # shapes without memory
        wanted = {name: list(value.shape) for name, value in SequenceModel(config).state_dict().items()}
    missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"holds {extra[0]}, which the model does not have"
        raise CheckpointError(f"{source}: {what}: the weights belong to another configuration")
    for name, shape in shapes.items():
        if list(shape) != wanted[name]:
            raise CheckpointError(f"{source}: {name} is {list(shape)}, the configuration needs {wanted[name]}")


def build_model(config: ModelConfig, weights: Mapping[str, torch.Tensor], source: str) -> SequenceModel:
    """A model with these weights, after checking names, shapes and values; `source` is named in errors.

    Raises:
        CheckpointError: as :func:`check_shapes`, or something is not finite.
    """
    check_shapes(config, {name: tuple(tensor.shape) for name, tensor in weights.items()}, source)
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: {name} holds values that are not finite floating-point numbers")
    model = SequenceModel(config)
    model.load_state_dict(weights)
    return model
