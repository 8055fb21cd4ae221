"""How large the rounding error of one operation can be, in unit roundoffs of float32: see rounding_noise.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_TINY = 1e-300
_EQUAL_TERMS, _LANES = 0.99, 16
_Error = Callable[..., Tensor]


def error_of(function: Any) -> _Error | None:
    """The error of an operation of PyTorch, as a function of its result and its arguments; None where it is exact.

    What works on each element by itself, and is not known to be exact, rounds like a function of the C library.
    """
    name = function.overloadpacket.__name__
    name = name.rstrip("_")
    known = _ERRORS.get(name)
    if known is None and torch.Tag.pointwise in function.tags and name not in _EXACT:
        return _FUNCTION
    return known


def _relative(ulps: float) -> _Error:
    """Errors relative to the result."""

    def magnitude(out: Tensor, *_: Any, **__: Any) -> Tensor:
        return ulps * out.abs()

    return magnitude


def _sum_error(terms: Tensor | int, squares: Tensor, total: Tensor) -> Tensor:
    """Root mean square error of adding up `terms` numbers one after the other, in unit roundoffs.

    Each partial sum S_k is rounded: the variance is sum_k S_k^2. Terms of random sign with mean square m make
    S_k^2 = k m on average, positive terms S_k = k total / n: n / 2 sum a^2 and n / 3 total^2; what lies between lies
    below the sum of both. Terms that are all equal make errors of one sign: half of n times the total, in the lanes
    that every implementation has.
    """
    scattered = (terms * (squares / 2 + total.square() / 3)).sqrt()
    equal = total.square() > _EQUAL_TERMS * terms * squares
    return torch.where(equal, torch.maximum(scattered, terms / (2 * _LANES) * total.abs()), scattered)


def _product(out: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return _sum_error(left.shape[-1], left.square() @ right.square(), out)


def _linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    added = 0.0 if bias is None else bias.abs()
    return _product(out, x, weight.t()) + added


def _addmm(out: Tensor, added: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return _product(out, left, right) + added.abs()


def _sum(out: Tensor, x: Tensor, axes: Sequence[int], keepdim: bool = False, **_: Any) -> Tensor:
    return _sum_error(math.prod(x.shape[axis] for axis in axes), x.square().sum(list(axes), keepdim), out)


def _mean(out: Tensor, x: Tensor, axes: Sequence[int], keepdim: bool = False, **_: Any) -> Tensor:
    terms = math.prod(x.shape[axis] for axis in axes)
    return _sum(out * terms, x, axes, keepdim) / terms


def _cumsum(out: Tensor, x: Tensor, axis: int, **_: Any) -> Tensor:
    return _sum_error(_counts(x, axis), x.square().cumsum(axis), out)


def _counts(x: Tensor, axis: int) -> Tensor:
    """1, 2, ... along an axis."""
    return torch.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))


def _log_cumsum_exp(out: Tensor, x: Tensor, axis: int, **_: Any) -> Tensor:
    """A relative error of the sum is an absolute one of its logarithm."""
    return out.abs() + 2 + (_counts(x, axis) / 3).sqrt()


def _vector_norm(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Half the relative error of a sum of equal squares, and the root's own."""
    return out * (1 + math.sqrt(x.shape[-1] / 3) / 2)


def _attention(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """All of softmax attention in one operation: errors of the scores are relative errors of the weights."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.mT
    hidden = torch.zeros(scores.shape[-2:], dtype=torch.bool)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    added = torch.zeros(()) if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask
    hidden = hidden | (~attn_mask if attn_mask is not None and attn_mask.dtype == torch.bool else added == -torch.inf)
    added = added.clamp_min(-1e30)
    error = _product(scores, q, k.mT) + scores.abs() + added.abs() / factor
    errors = error.masked_fill(hidden, 0.0).amax(-1, keepdim=True) * factor
    weights = torch.softmax((scores * factor + added).masked_fill(hidden, -torch.inf), -1).nan_to_num_(0.0)
    return (weights @ v.abs()) * (4 + math.sqrt(k.shape[-2] / 3) + 2 * errors)


def _convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **_: Any) -> Tensor:
    """Each result is a sum over channels and taps."""
    squares = torch.conv1d(x.square(), weight.square(), None, *rest[:4]) if x.ndim == weight.ndim == 3 else out.square()
    added: Tensor | float = 0.0 if bias is None else bias.abs()[:, None] if out.ndim == 3 else out.abs()
    return _sum_error(math.prod(weight.shape[1:]), squares, out) + added


def _over_all(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Of a reduction whose axes do not matter: over as many terms as there can be for one result."""
    return out.abs() * (2 + math.sqrt(max(1, x.numel() // max(1, out.numel())) / 3))


def _cumprod(out: Tensor, x: Tensor, axis: int, **_: Any) -> Tensor:
    return out.abs() * _counts(x, axis)


def _log_sum_exp(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """A relative error of the sum is an absolute one of its logarithm."""
    return out.abs() + 2 + math.sqrt(max(1, x.numel() // max(1, out.numel())) / 3)


def _log_softmax(out: Tensor, x: Tensor, axis: int, *_: Any, **__: Any) -> Tensor:
    return 2 * out.abs() + 2 + math.sqrt(x.shape[axis] / 3)


def _triangular(out: Tensor, matrix: Tensor, *_: Any, **__: Any) -> Tensor:
    """Each solved row adds up those before it."""
    return _product(out, matrix.tril().abs() + matrix.triu().abs(), out.abs()) if matrix.ndim else out.abs()


def _layer_norm(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """The mean that is subtracted is rounded, too: its error is enlarged as x is, by 1 / sigma."""
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    return 3 * out.abs() + mean.abs() / deviation.clamp_min(_TINY)


def _softmax(out: Tensor, *_: Any, **__: Any) -> Tensor:
    """exp(s - max): the difference is rounded relative to its own size."""
    return out * (3 + out.clamp_min(_TINY).log().abs())


def _near_zero(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Gelu and elu below zero: x (1 + erf) and exp(x) - 1 cancel."""
    return 2 * out.abs() + torch.where(x < 0, x.abs().clamp_max(1), 0.0)


_ERRORS: dict[str, _Error] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "square"), _relative(1)),
    **dict.fromkeys(("exp", "log", "sqrt", "rsqrt"), _relative(2)),
    "rms_norm": _relative(3),
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    **dict.fromkeys(("gelu", "elu"), _near_zero),
    "matmul": _product,
    "linear": _linear,
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "sum": _sum,
    "mean": _mean,
    "cumsum": _cumsum,
    "logcumsumexp": _log_cumsum_exp,
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), _product),
    **dict.fromkeys(("conv1d", "convolution"), _convolution),
    **dict.fromkeys(("var", "std", "prod", "norm", "group_norm"), _over_all),
    "cumprod": _cumprod,
    "logsumexp": _log_sum_exp,
    "log_softmax": _log_softmax,
    "linalg_solve_triangular": _triangular,
    "scaled_dot_product_attention": _attention,
}
"""By operation, the largest error of one result in unit roundoffs. See also :data:`_EXACT`; others move numbers."""

_FUNCTION = _relative(2)

_EXACT = frozenset(
    (
        *("neg", "positive", "abs", "relu", "sign", "sgn", "floor", "ceil", "round", "trunc", "nan_to_num", "clone"),
        *("where", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin", "masked_fill", "fill"),
        *("copy", "zero", "threshold", "hardtanh", "heaviside", "_to_copy", "to", "ldexp", "bernoulli", "dropout"),
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
