"""Which operations of PyTorch do not round, and what is assumed of those that nobody knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

EXACT = frozenset(
    (
        *("neg", "positive", "abs", "relu", "sign", "sgn", "floor", "ceil", "round", "trunc", "nan_to_num", "clone"),
        *("where", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin", "masked_fill", "fill"),
        *("copy", "zero", "threshold", "hardtanh", "heaviside", "_to_copy", "to", "ldexp", "bernoulli", "dropout"),
        *("complex", "frac", "nextafter", "copysign"),
    )
)
"""Operations on each element that do not round."""

MOVES = frozenset(
    (
        *("to", "contiguous", "reshape", "flatten", "expand_as", "mT", "mH", "numpy_T", "chunk", "split", "unflatten"),
        *("type_as", "view_as", "reshape_as", "movedim", "moveaxis", "swapaxes", "squeeze", "hstack", "vstack", "pad"),
        *("narrow", "tile", "meshgrid", "size", "item", "dropout", "lift_fresh", "clip", "unbind", "tensor_split"),
        *("tril_indices", "one_hot", "repeat_interleave", "take_along_dim", "stack", "column_stack", "dstack"),
    )
)
"""Operations that consist of others, none of which rounds."""

_MOVED = frozenset(
    (
        *("cat", "stack", "repeat", "roll", "flip", "tril", "triu", "diag_embed", "index", "index_select", "gather"),
        *("take", "masked_select", "masked_scatter", "index_copy", "index_fill", "embedding", "constant_pad_nd"),
        *("select_scatter", "slice_scatter", "diagonal_scatter", "as_strided_scatter", "fill_diagonal", "im2col"),
        *("sort", "topk", "kthvalue", "median", "nanmedian", "mode", "max", "min", "amax", "amin", "aminmax"),
        *("cummax", "cummin", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
        *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "max_unpool2d", "max_unpool3d", "_unsafe_view"),
        *("replication_pad1d", "replication_pad2d", "replication_pad3d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_nearest1d", "upsample_nearest2d"),
        *("upsample_nearest3d", "native_dropout", "resize", "set", "lift", "pin_memory", "empty_like", "zeros_like"),
        *("ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "scatter"),
        *(
            "unique_dim",
            "_unique2",
            "_sparse_coo_tensor_with_dims_and_tensors",
            "_to_dense",
            "_to_sparse",
            "dequantize",
        ),
        *("_coalesce", "values", "_values", "_local_scalar_dense", "split_with_sizes", "unsafe_split", "unsafe_chunk"),
        *("unsafe_split_with_sizes", "block_diag", "_reshape_alias", "expand_copy", "permute_copy", "view_copy"),
        *("detach_copy", "slice_copy", "transpose_copy", "squeeze_copy", "unsqueeze_copy", "lift_fresh_copy"),
        *("resolve_conj", "resolve_neg", "_conj_physical", "_assert_async", "_functional_assert_async", "isin"),
    )
)
"""Operations that only move numbers, or choose among them."""


def is_exact(function: Any) -> bool:
    """Whether an operation is known not to round: it moves or chooses numbers, or draws them."""
    name = function.overloadpacket.__name__.rstrip("_")
    if name in EXACT or function.is_view or torch.Tag.nondeterministic_seeded in function.tags:
        return True
    return name in _MOVED and "reduce" not in function._overloadname  # scatter with a reduction adds up


def unknown_error(out: Tensor, *given: Any, **named: Any) -> Tensor:
    """Of an operation that nobody knows: as of sums over all its inputs, relative to the largest result of a row.

    Args:
        out: what came out, [...]; its first axis is taken for rows where the inputs have it, too.
        given, named: the arguments; what is made of no floating-point numbers is exact.
    """
    inputs = [value for value in tensors_in((given, named)) if value.is_floating_point() or value.is_complex()]
    if not inputs or not out.numel():
        return torch.zeros(out.shape, dtype=torch.float64)
    rows = out.shape[0] if out.ndim > 1 else 1
    terms = sum(value.numel() // (rows if value.ndim > 1 and len(value) == rows else 1) for value in inputs)
    sizes = out.abs().nan_to_num(0.0, 0.0, 0.0)
    largest = sizes.flatten(1).amax(1).reshape(-1, *[1] * (out.ndim - 1)) if out.ndim > 1 else sizes.max()
    return largest.expand(out.shape) * (2 + math.sqrt(terms / 3))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of arguments, lists of them, and lists of lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
