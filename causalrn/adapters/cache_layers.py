"""One layer of a transformers `DynamicCache`, to a dict of tensors and back.

Source: `cache_utils.py` of transformers 5.24. Its layers change their tensors in place, know by flags whether they are
filled, and count positions in Python integers; a dict of tensors has none of these.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from causalrn.errors import ConfigError

GROWING_AXES = {"keys": 2, "values": 2, "indexer_keys": 1, "indexer_positions": 2}
"""Tensors that get a row per token, and the axis of these rows."""

_KNOWN = {
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
    "DummyLayer",
}


def check_layers(layers: list[Any], model_type: str) -> None:
    """Refuse layers whose state is more than tensors of one shape and rows that are appended.

    Raises:
        ConfigError: such a layer.
    """
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind not in _KNOWN:
            raise ConfigError(f"{model_type}: cache layer {index} is a {kind}, whose state is not known: not adapted")


def fill_layer(layer: Any, tensors: dict[str, Tensor], seen: int | None) -> None:
    """Put tensors into a fresh layer. Constant ones are copied, since the layer writes into them.

    Args:
        layer: a layer of a new `DynamicCache`.
        tensors: what `read_layer` gave.
        seen: tokens before this call, for windows; None: as many as the layer has rows. Masks are the same where
            nothing is padded, since they depend on distances.
    """
    if "keys" in tensors:
        layer.lazy_initialization(tensors["keys"], tensors["values"])
        layer.keys, layer.values = tensors["keys"], tensors["values"]
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = tensors["keys"].shape[-2] if seen is None else seen
    if "indexer_keys" in tensors:
        layer.lazy_initialization_indexer(tensors["indexer_keys"])
        layer.indexer_keys = tensors["indexer_keys"]
    if "indexer_positions" in tensors:
        layer.indexer_position_ids = tensors["indexer_positions"].transpose(0, 1)  # [dimensions, B, t]
    for index in range(getattr(layer, "number_of_states", 0)):
        _fill_constant(layer, index, tensors)


def _fill_constant(layer: Any, index: int, tensors: dict[str, Tensor]) -> None:
    conv = tensors.get(_name("conv", index, layer))
    recurrent = tensors.get(_name("recurrent", index, layer))
    if conv is not None:
        layer.conv_states[index] = conv.clone()
        layer.conv_kernel_size[index] = conv.shape[-1]
        layer.is_conv_states_initialized[index] = True
        layer.dtype, layer.device = conv.dtype, conv.device
    if recurrent is not None:
        layer.recurrent_states[index] = recurrent.clone()
        layer.is_recurrent_states_initialized[index] = True
    layer.has_previous_state[index] = conv is not None or recurrent is not None


def read_layer(layer: Any) -> dict[str, Tensor]:
    """The tensors of a layer: keys, values [B, G, t, D], conv [B, C, K], recurrent [B, ...], as far as it has them."""
    tensors: dict[str, Tensor] = {}
    if getattr(layer, "keys", None) is not None:
        tensors |= {"keys": layer.keys, "values": layer.values}
    if getattr(layer, "indexer_keys", None) is not None:
        tensors["indexer_keys"] = layer.indexer_keys
    if getattr(layer, "indexer_position_ids", None) is not None:
        tensors["indexer_positions"] = layer.indexer_position_ids.transpose(0, 1)  # [B, dimensions, t]
    for index in range(getattr(layer, "number_of_states", 0)):
        if layer.conv_states[index] is not None:
            tensors[_name("conv", index, layer)] = layer.conv_states[index]
        if layer.recurrent_states[index] is not None:
            tensors[_name("recurrent", index, layer)] = layer.recurrent_states[index]
    return tensors


def _name(role: str, index: int, layer: Any) -> str:
    return role if layer.number_of_states == 1 else f"{role}_{index}"
