"""The forms of a recurrent model as plain functions: what is verified and exported of models of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecurrentForms:
    """A model's parallel form, and the functions of its recurrent form. B batch, T time, V vocabulary.

    State is any nested dict, list or tuple of tensors whose axis 0 is the batch. Functions never change the tensors
    that they are given.

    Attributes:
        parallel: int64 [B, T] -> logits [B, T, V]; where `masks_padding`, also with `attention_mask` int64 [B, T].
        step: (tokens int64 [B], state, position int64 scalar or None) -> (logits [B, V], state).
        initial_state: B -> the state before the first token.
        prefill: (tokens int64 [B, T], state, position) -> (logits [B, T, V], state); where the state keeps padding,
            also with `attention_mask` int64 [B, T]. None where a model has only steps.
        vocabulary: V.
        blocks: the modules of the decoder's layers in order, None where they were not found.
        masks_padding: whether `parallel` takes `attention_mask`.
        keeps_padding: whether `prefill` takes `attention_mask`, and the state remembers what it masked.
    """

    parallel: Callable[..., Any]
    step: Callable[..., Any]
    initial_state: Callable[[int], Any]
    prefill: Callable[..., Any] | None
    vocabulary: int
    blocks: list[Any] | None = None
    masks_padding: bool = False
    keeps_padding: bool = False
