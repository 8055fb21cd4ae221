"""How large the rounding error of one operation can be, in unit roundoffs of float32: see noise.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from causalrn.runtimes.rounding.kinds import MOVES, is_exact, unknown_error
from causalrn.runtimes.rounding.systems import inverse_error, pooled_error, solved_error

_TINY = 1e-300
_EQUAL_TERMS, _LANES = 0.99, 16
_Error = Callable[..., Tensor]


def error_of(function: Any) -> _Error | None:
    """The error of an operation of PyTorch, as a function of its result and its arguments.

    None where it is exact, or consists of others. What works on each element by itself, and is not known to be exact,
    rounds like a function of the C library; what is not known at all, like a sum over all that it reads.
    """
    name = function.overloadpacket.__name__.rstrip("_")
    if name in _ERRORS:
        return _ERRORS[name]
    if is_exact(function) or name in MOVES:
        return None
    if torch.Tag.pointwise in function.tags:
        return _FUNCTION
    return None if function._can_decompose() else unknown_error


def _relative(ulps: float) -> _Error:
    """Errors relative to the result."""

    def magnitude(out: Tensor, *_: Any, **__: Any) -> Tensor:
        return ulps * out.abs()

    return magnitude


_FUNCTION = _relative(2)


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


def _addbmm(out: Tensor, added: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    """The products of a batch, added up."""
    squares = (left.square() @ right.square()).sum(0)
    return _sum_error(left.shape[0] * left.shape[-1], squares, out) + added.abs()


def _sum(out: Tensor, x: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    axes = list(axes or range(x.ndim))
    squares = x.square().sum(axes, keepdim) if axes else x.square()
    return _sum_error(math.prod(x.shape[axis] for axis in axes), squares, out)


def _mean(out: Tensor, x: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    terms = math.prod(x.shape[axis] for axis in axes or range(x.ndim))
    return _sum(out * terms, x, axes, keepdim) / terms


def _added(out: Tensor, left: Any, right: Any, alpha: float = 1) -> Tensor:
    """A factor of one of the two is multiplied first, where there is one."""
    return out.abs() if alpha == 1 else out.abs() + abs(alpha) * (right.abs() if isinstance(right, Tensor) else 0.0)


def _lerp(out: Tensor, start: Tensor, end: Tensor, weight: Any) -> Tensor:
    moved: Tensor = (end - start) * weight
    return out.abs() + 2 * moved.abs()


def _addcmul(out: Tensor, added: Tensor, left: Tensor, right: Tensor, *, value: float = 1) -> Tensor:
    return out.abs() + 2 * (value * left * right).abs()


def _addcdiv(out: Tensor, added: Tensor, left: Tensor, right: Tensor, *, value: float = 1) -> Tensor:
    return out.abs() + 2 * (value * left / right).abs()


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
    return out * (1 + math.sqrt(x.numel() / max(1, out.numel()) / 3) / 2)


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


def _scatter_add(out: Tensor, x: Tensor, axis: int, index: Tensor, source: Tensor, **_: Any) -> Tensor:
    """Sums of as many numbers as the axis can bring."""
    squares = x.square().scatter_add(axis, index, source.square())
    return _sum_error(1 + index.shape[axis] if index.ndim else 2, squares, out)


def _index_add(out: Tensor, x: Tensor, axis: int, index: Tensor, source: Tensor, alpha: float = 1, **_: Any) -> Tensor:
    return _sum_error(1 + index.numel(), x.square().index_add(axis, index, (alpha * source).square()), out)


def _index_put(out: Tensor, x: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *_: Any) -> Tensor:
    """Exact, unless it adds up."""
    if not accumulate:
        return torch.zeros_like(out, dtype=torch.float64)
    squares = x.square().index_put(indices, values.square(), True)
    return _sum_error(1 + values.numel(), squares, out)


def _convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **_: Any) -> Tensor:
    """Each result is a sum over channels and taps: stride, padding, dilation, transposed, output_padding, groups."""
    squares = torch.convolution(x.square(), weight.square(), None, *rest)
    transposed, groups = rest[3], rest[5]
    terms = weight[:, 0].numel() // groups if transposed else weight[0].numel()
    added = 0.0 if bias is None else bias.abs().reshape(-1, *[1] * (weight.ndim - 2))
    return _sum_error(terms, squares, out) + added


def _conv1d(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **_: Any) -> Tensor:
    added = 0.0 if bias is None else bias.abs()[:, None]
    return _sum_error(weight[0].numel(), torch.conv1d(x.square(), weight.square(), None, *rest), out) + added


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


def _triangular(out: Tensor, matrix: Tensor, *_: Any, left: bool = True, **__: Any) -> Tensor:
    """Each solved row adds up those before it."""
    parts = (matrix.tril().abs() + matrix.triu().abs(), out.abs())
    return _product(out, *(parts if left else parts[::-1]))


def _layer_norm(
    out: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor:
    """The mean that is subtracted is rounded, too: its error is enlarged as x is, by 1 / sigma."""
    axes = list(range(-len(shape), 0))
    mean, deviation = x.mean(axes, keepdim=True), x.std(axes, correction=0, keepdim=True)
    scale = mean.abs() / deviation.clamp_min(_TINY)
    if weight is not None:
        scale = scale * weight.abs()
    return 3 * out.abs() + scale if bias is None else 3 * (out - bias).abs() + scale + out.abs()


def _group_norm(
    out: Tensor, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor:
    """A layer norm of each group of channels."""
    grouped = x.reshape(len(x), groups, -1)
    mean, deviation = grouped.mean(-1, keepdim=True), grouped.std(-1, correction=0, keepdim=True)
    scale = (mean.abs() / deviation.clamp_min(_TINY)).expand_as(grouped).reshape(x.shape)
    by_channel = (1, -1, *[1] * (x.ndim - 2))
    if weight is not None:
        scale = scale * weight.abs().reshape(by_channel)
    return 3 * out.abs() + scale if bias is None else 4 * out.abs() + 3 * bias.abs().reshape(by_channel) + scale


def _softmax(out: Tensor, *_: Any, **__: Any) -> Tensor:
    """exp(s - max): the difference is rounded relative to its own size."""
    return out * (3 + out.clamp_min(_TINY).log().abs())


def _near_zero(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Elu below zero: exp(x) - 1 cancels."""
    return 2 * out.abs() + torch.where(x < 0, x.abs().clamp_max(1), 0.0)


def _gelu(out: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Below zero x (1 + erf) cancels, and vectorized erf is off by several last places of one."""
    return 2 * out.abs() + torch.where(x < 0, torch.minimum(x.abs(), 6 * x.square()).maximum(6 * (x.abs() - 1)), 0.0)


_ERRORS: dict[str, _Error] = {
    **dict.fromkeys(("mul", "div", "square"), _relative(1)),
    **dict.fromkeys(("add", "sub"), _added),
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    **dict.fromkeys(("hardswish", "glu", "silu", "mish", "log_sigmoid"), _relative(3)),
    "logaddexp": lambda out, *_: out.abs() + 2,
    **dict.fromkeys(("exp", "log", "sqrt", "rsqrt"), _relative(2)),
    "rms_norm": _relative(3),
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "elu": _near_zero,
    "gelu": _gelu,
    "matmul": _product,
    "linear": _linear,
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "addbmm": _addbmm,
    **dict.fromkeys(("sum", "nansum"), _sum),
    "mean": _mean,
    "cumsum": _cumsum,
    "logcumsumexp": _log_cumsum_exp,
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), _product),
    "conv1d": _conv1d,
    "convolution": _convolution,
    **dict.fromkeys(("var", "std", "prod", "norm"), _over_all),
    "group_norm": _group_norm,
    "instance_norm": lambda out, x, weight=None, bias=None, *_: _group_norm(out, x, x.shape[1], weight, bias),
    "cumprod": _cumprod,
    "logsumexp": _log_sum_exp,
    "log_softmax": _log_softmax,
    "linalg_solve_triangular": _triangular,
    "linalg_inv_ex": inverse_error,
    "_linalg_solve_ex": solved_error,
    "scatter_add": _scatter_add,
    "index_add": _index_add,
    "index_put": _index_put,
    **dict.fromkeys(("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), pooled_error),
    "scaled_dot_product_attention": _attention,
}
"""By operation, the largest error of one result in unit roundoffs; see kinds.py for all others."""
