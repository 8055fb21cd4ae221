"""Rounding as noise: run any torch code with every operation perturbed as a lower precision would perturb it.

A float32 result differs from the one without rounding, to first order, by

    delta y = sum over operations k of J_k delta_k,   |delta_k| <= d_k,

J_k being the derivative of the result by the outcome of operation k at the actual weights and intermediates. The sum
contains everything that makes a model delicate: the conditioning of pairs (b_j near -a), small variances, the size of
the weights. Bounding each J_k by a norm and adding up multiplies twelve worst cases, which never meet. Instead the sum
itself is evaluated in float64, with delta_k drawn within d_k; docs/parity.md has the bound that is estimated from that.

What is drawn depends on the value that is rounded and on the operation's place in the model, as rounding does: equal
values (repeated tokens, equal rows) get equal errors at every step, which then add up coherently instead of cancelling.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from causalrn.bundle.tolerances import UNIT_ROUNDOFF
from causalrn.model.normalization import centre
from causalrn.model.operators import c_library
from causalrn.model.operators.c_kernels import sum_pairs_noisily
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import using_kernel
from causalrn.model.operators.pair_sum import replacing_pair_sum

_HASHES = (0x9E3779B1 - (1 << 32), 0x85EBCA6B - (1 << 32))  # odd multipliers, as signed 32-bit numbers
_TINY = 1e-300
_EXPONENT = 0x7F800000
_EQUAL_TERMS, _LANES = 0.99, 16


class RoundingNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which float64 torch code computes as if every operation were rounded to float32.

    Args:
        seed: two seeds give two independent sets of rounding errors.
        model: every call of it begins anew with the same errors for the same values: a step makes the same errors as
            the step before. None never begins anew.

    Run it under `torch.inference_mode()`: only then do composite operations (linear, rms_norm) come in one piece.
    """

    def __init__(self, seed: int, model: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)
        self._salts: list[int] = []
        self._place = 0
        self._model = model
        self._hook: RemovableHandle | None = None
        self._contexts = contextlib.ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch.compile, which PyTorch 2.13 would keep out of here, takes two seconds to import."""
        return False

    def __enter__(self) -> Self:
        """Begin to perturb."""
        if self._model is not None:
            self._hook = self._model.register_forward_pre_hook(self._restart)
        self._contexts.enter_context(using_kernel("tiles"))  # in which every operation can be seen
        if not c_library.why_not("cpu", torch.float64):
            self._contexts.enter_context(replacing_pair_sum(self._sum_pairs))
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Perturb no longer."""
        if self._hook is not None:
            self._hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._contexts.close()

    def _restart(self, *_: Any) -> None:
        self._place = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and perturb what comes out if it rounds."""
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        magnitude = _MAGNITUDES.get(name.rstrip("_"))
        if magnitude is None or not isinstance(out, Tensor) or out.dtype != torch.float64:
            return out
        noise = self._noise(_key(name, out, args), magnitude(out, *args))
        in_place = name.endswith("_") or "out" in (kwargs or {})
        return out.add_(noise) if in_place else out + noise

    def _sum_pairs(self, q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
        """The sum over pairs as one operation, in which each pair makes errors of its own."""
        if function.norm == "layer":
            q, k = centre(q), centre(k)
        return sum_pairs_noisily(q, k, function, [self._salt() + (1 << 31) for _ in range(3)])

    def _salt(self) -> int:
        """What tells the errors of one place in the model from those of others."""
        if self._place == len(self._salts):
            self._salts.append(int(torch.randint(-(1 << 31), 1 << 31, (1,), generator=self._generator)))
        self._place += 1
        return self._salts[self._place - 1]

    def _noise(self, key: Tensor, magnitude: Tensor) -> Tensor:
        """Errors of up to `magnitude` unit roundoffs, uniform, drawn from a key and the operation's place."""
        mixed = (key ^ self._salt()) * _HASHES[0]
        mixed = (mixed ^ (mixed >> 15)) * _HASHES[1]  # int32 products wrap around
        noise = mixed.to(torch.float64).mul_(UNIT_ROUNDOFF * 2.0**-31)
        return noise.mul_(magnitude).nan_to_num_(0.0, 0.0, 0.0)  # a masked score is infinite, and not rounded


def _key(name: str, out: Tensor, args: Sequence[Any]) -> Tensor:
    """What a rounding error depends on, as int32: the value that is rounded; for a sum of two the smaller one.

    Adding m to a float32 S is off by m modulo the last place of the result: a running sum of equal terms makes the same
    error at every step, until its exponent changes.
    """
    bits = out.to(torch.float32).view(torch.int32)
    if name.rstrip("_") not in ("add", "sub") or not all(isinstance(arg, Tensor) for arg in args[:2]):
        return bits
    first, second = args[:2]
    smaller = torch.where(first.abs() < second.abs(), first, second).to(torch.float32)
    if smaller.shape != out.shape:
        return bits
    return smaller.view(torch.int32) ^ (bits & _EXPONENT)


def _relative(ulps: float) -> Callable[..., Tensor]:
    """Errors relative to the result."""

    def magnitude(out: Tensor, *_: Any) -> Tensor:
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


def _product(out: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _sum_error(left.shape[-1], left.square() @ right.square(), out)


def _linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    added = 0.0 if bias is None else bias.abs()
    return _product(out, x, weight.t()) + added


def _addmm(out: Tensor, added: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _product(out, left, right) + added.abs()


def _sum(out: Tensor, x: Tensor, axes: Sequence[int], keepdim: bool = False) -> Tensor:
    return _sum_error(math.prod(x.shape[axis] for axis in axes), x.square().sum(list(axes), keepdim), out)


def _mean(out: Tensor, x: Tensor, axes: Sequence[int], keepdim: bool = False) -> Tensor:
    terms = math.prod(x.shape[axis] for axis in axes)
    return _sum(out * terms, x, axes, keepdim) / terms


def _cumsum(out: Tensor, x: Tensor, axis: int) -> Tensor:
    return _sum_error(_counts(x, axis), x.square().cumsum(axis), out)


def _counts(x: Tensor, axis: int) -> Tensor:
    """1, 2, ... along an axis."""
    return torch.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))


def _log_cumsum_exp(out: Tensor, x: Tensor, axis: int) -> Tensor:
    """A relative error of the sum is an absolute one of its logarithm."""
    return out.abs() + 2 + (_counts(x, axis) / 3).sqrt()


def _vector_norm(out: Tensor, x: Tensor, *_: Any) -> Tensor:
    """Half the relative error of a sum of equal squares, and the root's own."""
    return out * (1 + math.sqrt(x.shape[-1] / 3) / 2)


def _causal_attention(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    """All of softmax attention in one operation: errors of the scores are relative errors of the weights."""
    width = math.sqrt(q.shape[-1])
    scores = q @ k.mT
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    errors = (_product(scores, q, k.mT) + scores.abs()).masked_fill(future, 0.0).amax(-1, keepdim=True) / width
    weights = torch.softmax((scores / width).masked_fill(future, -torch.inf), -1)
    return (weights @ v.abs()) * (4 + math.sqrt(q.shape[-2] / 3) + 2 * errors)


def _layer_norm(out: Tensor, x: Tensor, *_: Any) -> Tensor:
    """The mean that is subtracted is rounded, too: its error is enlarged as x is, by 1 / sigma."""
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    return 3 * out.abs() + mean.abs() / deviation.clamp_min(_TINY)


def _softmax(out: Tensor, *_: Any) -> Tensor:
    """exp(s - max): the difference is rounded relative to its own size."""
    return out * (3 + out.clamp_min(_TINY).log().abs())


def _near_zero(out: Tensor, x: Tensor, *_: Any) -> Tensor:
    """Gelu and elu below zero: x (1 + erf) and exp(x) - 1 cancel."""
    return 2 * out.abs() + torch.where(x < 0, x.abs().clamp_max(1), 0.0)


_MAGNITUDES: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "square"), _relative(1)),
    **dict.fromkeys(("exp", "log", "sqrt", "rsqrt"), _relative(2)),
    "rms_norm": _relative(3),
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    **dict.fromkeys(("gelu", "elu"), _near_zero),
    "matmul": _product,
    "linear": _linear,
    "addmm": _addmm,
    "sum": _sum,
    "mean": _mean,
    "cumsum": _cumsum,
    "logcumsumexp": _log_cumsum_exp,
    "linalg_vector_norm": _vector_norm,
    "scaled_dot_product_attention": _causal_attention,
}
"""By operation, the largest error of one result in unit roundoffs. Operations that are not here do not round."""
