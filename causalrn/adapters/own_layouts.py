"""Models of transformers with a cache of their own: MiniMax, xLSTM, RWKV, and RecurrentGemma, whose modules keep it.

Source: `modeling_minimax.py`, `modeling_xlstm.py`, `modeling_rwkv.py`, `modeling_recurrent_gemma.py` of transformers
5.24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from causalrn.adapters.cache_layers import fill_layer, read_layer
from causalrn.adapters.cache_layouts import DynamicCacheLayout, State


class MiniMaxLayout(DynamicCacheLayout):
    """Attention layers as elsewhere; lightning attention keeps the sum of key-value products, [B, G, D, D].

    Its prefill reads decay factors from buffers that were made in float32, its step computes them: in float64 the
    buffers are made anew for a call.
    """

    def new_cache(self) -> Any:
        from transformers import DynamicLayer
        from transformers.models.minimax.modeling_minimax import MiniMaxCache

        cache = MiniMaxCache()
        cache.layers = [DynamicLayer() for _ in range(self.config.num_hidden_layers)]
        return cache

    def run(self, model: Any, state: State | None, inputs: dict[str, Any], seen: int | None) -> tuple[Tensor, State]:
        from transformers.models.minimax.modeling_minimax import MiniMaxCache

        cache = MiniMaxCache() if state is None else self.new_cache()
        for layer, tensors in zip(cache.layers, [] if state is None else state["layers"], strict=True):
            fill_layer(layer, tensors, seen)
            cache.linear_cache.append(tensors.get("recurrent", []))
        with _decays_in_float64(model):
            logits = model(**inputs, cache=cache, use_cache=True).logits
        layers = []
        for index in range(len(cache)):
            products = cache.linear_cache[index] if index < len(cache.linear_cache) else []
            layers.append({"recurrent": products} if isinstance(products, Tensor) else read_layer(cache.layers[index]))
        return logits, {"layers": layers}

    def run_parallel(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        with _decays_in_float64(model):
            return super().run_parallel(model, inputs)


class XLSTMLayout(DynamicCacheLayout):
    """Matrix memory [B, G, K, V], normalizer [B, G, K] and running maximum [B, G, 1] of every layer."""

    names: tuple[str, ...] = ("memory", "normalizer", "maximum")

    def __init__(self, config: Any) -> None:
        self.config = config

    def run(self, model: Any, state: State | None, inputs: dict[str, Any], seen: int | None) -> tuple[Tensor, State]:
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache

        cache = None
        if state is not None:
            first = state["layers"][0]["memory"]
            cache = xLSTMCache(self.config, first.shape[0], dtype=first.dtype, device=first.device)
            cache.rnn_state = {
                index: tuple(tensors[name].clone() for name in self.names)  # the model writes into them
                for index, tensors in enumerate(state["layers"])
            }
        output = model(**inputs, cache=cache, use_cache=True)
        after = output.cache.rnn_state
        return output.logits, {"layers": [dict(zip(self.names, after[index], strict=True)) for index in sorted(after)]}

    def rows_kept(self, state: State) -> tuple[int | None, int | None]:
        return None, None

    def clear(self, state: State, batch: int) -> State:
        return _zeros(state, batch)


class RwkvLayout(XLSTMLayout):
    """Five tensors [B, E] per layer. The model has five of [B, E, N] for all N layers, and writes into them."""

    names = ("feed_forward_shift", "attention_shift", "numerator", "denominator", "maximum")

    def run(self, model: Any, state: State | None, inputs: dict[str, Any], seen: int | None) -> tuple[Tensor, State]:
        given = None
        if state is not None:
            given = [torch.stack([tensors[name] for tensors in state["layers"]], dim=2) for name in self.names]
        output = model(**inputs, state=given, use_cache=True)
        per_layer = zip(*(tensor.unbind(dim=2) for tensor in output.state), strict=True)  # N times five of [B, E]
        layers = [{name: t.clone() for name, t in zip(self.names, layer, strict=True)} for layer in per_layer]
        return output.logits, {"layers": layers}

    def clear(self, state: State, batch: int) -> State:
        fresh = _zeros(state, batch)
        for tensors in fresh["layers"]:
            tensors["maximum"] -= 1e30  # as the model begins itself
        return fresh


class RecurrentGemmaLayout(DynamicCacheLayout):
    """Keys and values are in a cache; the modules of recurrent blocks keep their states as attributes between calls."""

    def run(self, model: Any, state: State | None, inputs: dict[str, Any], seen: int | None) -> tuple[Tensor, State]:
        blocks = _recurrent_blocks(model)
        with _attributes_restored(blocks.values()):
            if state is not None:
                for index, block in blocks.items():
                    block.conv1d_state = state["layers"][index]["conv"]
                    block.rg_lru.recurrent_states = state["layers"][index]["recurrent"]
            keys = None
            if state is not None:
                keys = {"layers": [{} if index in blocks else t for index, t in enumerate(state["layers"])]}
            logits, after = super().run(model, keys, inputs, seen)
            for index, block in blocks.items():
                after["layers"][index] = {"conv": block.conv1d_state, "recurrent": block.rg_lru.recurrent_states}
        return logits, after

    def run_parallel(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        with _attributes_restored(_recurrent_blocks(model).values()):
            return super().run_parallel(model, inputs)


OWN_LAYOUTS: dict[str, Callable[[Any], DynamicCacheLayout]] = {
    "minimax": MiniMaxLayout,
    "recurrent_gemma": RecurrentGemmaLayout,
    "rwkv": RwkvLayout,
    "xlstm": XLSTMLayout,
}
"""By `model_type`; every other model is tried with a `DynamicCache`."""


def _zeros(state: State, batch: int) -> State:
    return {
        "layers": [
            {name: tensor.new_zeros((batch, *tensor.shape[1:])) for name, tensor in tensors.items()}
            for tensors in state["layers"]
        ]
    }


def _recurrent_blocks(model: Any) -> dict[int, Any]:
    blocks = {index: layer.temporal_block for index, layer in enumerate(model.model.layers)}
    return {index: block for index, block in blocks.items() if hasattr(block, "rg_lru")}


@contextmanager
def _decays_in_float64(model: Any) -> Iterator[None]:
    names = ("query_decay", "key_decay", "diagonal_decay")
    layers = [module for module in model.modules() if hasattr(module, "decay_factors")]
    before = [[getattr(layer, name) for name in names] for layer in layers]
    try:
        for layer in layers:
            if layer.slope_rate.dtype == torch.float64:
                for name, factors in zip(names, layer.decay_factors(layer.slope_rate), strict=True):
                    setattr(layer, name, factors)
        yield
    finally:
        for layer, buffers in zip(layers, before, strict=True):
            for name, factors in zip(names, buffers, strict=True):
                setattr(layer, name, factors)


@contextmanager
def _attributes_restored(blocks: Any) -> Iterator[None]:
    """What a call leaves in the modules is taken out again, so that calls stay functions of their arguments."""
    before = [(block, block.conv1d_state, block.rg_lru.recurrent_states) for block in blocks]
    try:
        yield
    finally:
        for block, conv, recurrent in before:
            block.conv1d_state, block.rg_lru.recurrent_states = conv, recurrent
