"""Where models of transformers keep their state, and how a state of plain tensors gets there and back.

A layout runs the model on tokens and a state. Most models take a `DynamicCache`; a few have a cache of their own.
A state is `{"layers": [{"keys": ..., "conv": ...}, ...]}`, one dict per decoder layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causalrn.adapters.cache_layers import GROWING_AXES, check_layers, fill_layer, read_layer

State = dict[str, Any]


class DynamicCacheLayout:
    """Models that take a `DynamicCache`: attention, windows, convolutions, recurrent layers, and mixtures of them."""

    def __init__(self, config: Any) -> None:
        self.config = config
        check_layers(self.new_cache().layers, config.model_type)

    def new_cache(self) -> Any:
        """An empty cache of the kind that the model makes for itself."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    def run(self, model: Any, state: State | None, inputs: dict[str, Any], seen: int | None) -> tuple[Tensor, State]:
        """Logits [B, T, V], and the state after it. No state: before the first token, as the model begins itself."""
        cache = self.new_cache()
        if state is not None:
            for layer, tensors in zip(cache.layers, state["layers"], strict=True):
                fill_layer(layer, tensors, seen)
        logits = model(**inputs, cache=cache, use_cache=True).logits
        return logits, {"layers": [read_layer(layer) for layer in cache.layers]}

    def run_parallel(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Logits [B, T, V], without any cache."""
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits

    def rows_kept(self, state: State) -> tuple[int | None, int | None]:
        """Rows of the keys in a state, and the window that they are cut to. (None, None): no layer has keys.

        A layer that keeps all tokens is asked first (rows, None).
        """
        rows, window = None, None
        for layer, tensors in zip(self.new_cache().layers, state["layers"], strict=True):
            if "keys" in tensors:
                rows, window = tensors["keys"].shape[2], getattr(layer, "sliding_window", None)
                if window is None:
                    break
        return rows, window

    def clear(self, state: State, batch: int) -> State:
        """The state of a batch before the first token, from that after one token of one row."""
        token = getattr(self.config.get_text_config(), "eos_token_id", None)
        before = token[0] if isinstance(token, list) else token
        return {
            "layers": [
                {name: clear_tensor(name, tensor, batch, before) for name, tensor in tensors.items()}
                for tensors in state["layers"]
            ]
        }


def clear_tensor(name: str, tensor: Tensor, batch: int, token_before: int | None = None) -> Tensor:
    """No rows where a row is added per token, otherwise zeros; past tokens are `token_before`."""
    shape = [batch, *tensor.shape[1:]]
    if name in GROWING_AXES:
        shape[GROWING_AXES[name]] = 0
    elif not tensor.is_floating_point() and token_before is not None:
        return torch.full(shape, token_before, dtype=tensor.dtype, device=tensor.device)
    return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
