"""The operators of Core ML's programs that converted cells have, in numpy, as Apple's reference of MIL describes them.

Each takes its inputs by MIL's names for them. A result is rounded to the type that the program says; floats narrower
than float32 are computed in float32 before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from causalrn.runtimes.snapshot import Array

_DTYPES = {"bool": np.bool_, "fp16": np.float16, "fp32": np.float32, "int32": np.int32}

Operator = Callable[..., Any]
"""Called with inputs by name, gives the output, or several in a list."""


def _axes(axes: Array | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))


def _flag(value: Array | None) -> bool:
    return value is not None and bool(value)


def matmul(x: Array, y: Array, transpose_x: Array | None = None, transpose_y: Array | None = None) -> Array:
    """Product of the last two axes."""
    left, right = (x.swapaxes(-1, -2) if _flag(transpose_x) else x), (y.swapaxes(-1, -2) if _flag(transpose_y) else y)
    product: Array = left @ right
    return product


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """X @ weight.T + bias."""
    product: Array = x @ weight.T
    return product if bias is None else product + bias


def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta."""
    over = _axes(axes)
    centred = x - x.mean(over, keepdims=True)
    normal: Array = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + epsilon)
    normal = normal if gamma is None else normal * gamma
    return normal if beta is None else normal + beta


def gather(x: Array, indices: Array, axis: Array | int = 0, **ignored: Array) -> Array:
    """Rows, or what lies along another axis, by number; negative ones count from the end."""
    if any(int(value) for value in ignored.values() if np.ndim(value) == 0 and value.dtype != np.bool_):
        raise NotImplementedError("gather in batches")
    found: Array = np.take(x, indices, int(axis))
    return found


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """X[begin:end:stride], where a mask is set from the start, to the end, or without the axis."""

    def masked(mask: Array | None, axis: int) -> bool:
        return mask is not None and bool(mask[axis])

    places: list[Any] = []
    for axis in range(len(begin)):
        if masked(squeeze_mask, axis):
            places.append(int(begin[axis]))
            continue
        first = None if masked(begin_mask, axis) else int(begin[axis])
        last = None if masked(end_mask, axis) else int(end[axis])
        places.append(slice(first, last, 1 if stride is None else int(stride[axis])))
    part: Array = x[tuple(places)]
    return part


def cumsum(x: Array, axis: Array | int = 0, exclusive: Array | None = None, reverse: Array | None = None) -> Array:
    """Running sums."""
    if _flag(exclusive) or _flag(reverse):
        raise NotImplementedError("cumsum, exclusive or reverse")
    sums: Array = np.cumsum(x, int(axis), dtype=x.dtype)
    return sums


def softmax(x: Array, axis: Array | int = -1) -> Array:
    """exp(x) / sum, without overflow."""
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    weights: Array = powers / powers.sum(int(axis), keepdims=True)
    return weights


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """X times the standard normal distribution's share below it."""
    if mode != "EXACT":
        raise NotImplementedError(f"gelu {mode}")
    below = np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)), otypes=[np.float64])(x)
    product: Array = (x * below).astype(x.dtype)
    return product


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """X with constants before and behind the last axes."""
    if mode != "constant":
        raise NotImplementedError(f"pad {mode}")
    widths = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(a), int(b)) for a, b in np.reshape(pad, (-1, 2))]
    padded: Array = np.pad(x, widths, constant_values=constant_val)
    return padded


def split(x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None) -> list[Array]:
    """Parts along an axis."""
    sizes = [x.shape[int(axis)] // int(num_splits)] * int(num_splits) if num_splits is not None else split_sizes
    assert sizes is not None
    return np.split(x, np.cumsum(sizes)[:-1], int(axis))


def reshape(x: Array, shape: Array) -> Array:
    """The same values in another shape; 0 keeps a size, -1 is what is left."""
    sizes = [x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape)]
    return x.reshape(sizes)


def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """A matrix with zeros beyond so many diagonals below and above the main one."""
    row, column = np.ogrid[: x.shape[-2], : x.shape[-1]]
    keeps = ((int(lower) < 0) | (row - column <= int(lower))) & ((int(upper) < 0) | (column - row <= int(upper)))
    part: Array = np.where(keeps, x, np.zeros((), x.dtype))
    return part


def _reduction(reduce: Callable[..., Any]) -> Operator:
    return lambda x, axes=None, keep_dims=None: reduce(x, axis=_axes(axes), keepdims=_flag(keep_dims))


def _erf(x: Array) -> Array:
    values: Array = np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)
    return values


def _concat(values: Sequence[Array], axis: Array, interleave: Array | None = None) -> Array:
    if _flag(interleave):
        raise NotImplementedError("concat, interleaved")
    return np.concatenate(values, int(axis))


OPERATORS: Mapping[str, Operator] = {
    "abs": lambda x: np.abs(x),
    "add": lambda x, y: x + y,
    "band_part": band_part,
    "cast": lambda x, dtype: x.astype(_DTYPES[dtype]),
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "concat": _concat,
    "cumsum": cumsum,
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "equal": lambda x, y: x == y,
    "erf": _erf,
    "exp": lambda x: np.exp(x),
    "expand_dims": lambda x, axes: np.expand_dims(x, _axes(axes)),  # type: ignore[arg-type]
    "fill": lambda shape, value: np.full(tuple(shape), value),
    "fill_like": lambda ref_tensor, value: np.full(ref_tensor.shape, value),
    "floor_div": lambda x, y: x // y,
    "gather": gather,
    "gelu": gelu,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "identity": lambda x: x,
    "layer_norm": layer_norm,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "linear": linear,
    "log": lambda x, epsilon=0.0: np.log(x + epsilon),
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "matmul": matmul,
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pad": pad,
    "pow": lambda x, y: np.power(x, y),
    "real_div": lambda x, y: x / y,
    "reduce_max": _reduction(np.max),
    "reduce_mean": _reduction(np.mean),
    "reduce_min": _reduction(np.min),
    "reduce_sum": _reduction(np.sum),
    "relu": lambda x: np.maximum(x, 0),
    "reshape": reshape,
    "rsqrt": lambda x, epsilon=0.0: 1 / np.sqrt(x + epsilon),
    "select": lambda cond, a, b: np.where(cond, a, b),
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "split": split,
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: np.square(x),
    "squeeze": lambda x, axes=None: np.squeeze(x, _axes(axes)),
    "stack": lambda values, axis: np.stack(values, int(axis)),
    "sub": lambda x, y: x - y,
    "tile": lambda x, reps: np.tile(x, tuple(reps)),
    "transpose": lambda x, perm: np.transpose(x, tuple(perm)),
}
"""By type."""
