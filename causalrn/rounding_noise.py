"""Rounding as noise: run any torch code with every operation perturbed as a lower precision would perturb it.

A float32 result differs from the exact one, to first order, by

    delta y = sum over operations k of J_k delta_k,   |delta_k| <= d_k,

J_k being the derivative of the result by the outcome of operation k at the actual weights and intermediates. The sum
contains everything that makes a model delicate: the conditioning of pairs (b_j near -a), small variances, the size of
the weights. Bounding each J_k by a norm and adding up multiplies twelve worst cases and says nothing. Instead the sum
itself is evaluated in float64, with delta_k drawn within d_k; docs/parity.md derives the bound from that.

What is drawn depends on the value that is rounded, as rounding does: equal values (repeated tokens, equal rows) get
equal errors, which then add up coherently instead of cancelling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative error of rounding once to the nearest, by dtype."""

_HASHES = (0x9E3779B1 - (1 << 32), 0x85EBCA6B - (1 << 32))  # odd multipliers, as signed 32-bit numbers
_TINY = 1e-300


class RoundingNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which float64 torch code computes as if every operation were rounded.

    Args:
        seed: two seeds give two independent sets of rounding errors.
        unit: the unit roundoff, e.g. ``UNIT_ROUNDOFF["float32"]``.

    Run it under `torch.inference_mode()`: only then do composite operations (linear, rms_norm) come in one piece.
    """

    def __init__(self, seed: int, unit: float = UNIT_ROUNDOFF["float32"]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit = unit
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and perturb what comes out if it rounds."""
        out = function(*args, **(kwargs or {}))
        magnitude = _MAGNITUDES.get(function.overloadpacket.__name__)
        if magnitude is None or not isinstance(out, Tensor) or out.dtype != torch.float64:
            return out
        return self._perturbed(out, magnitude(out, *args))

    def _perturbed(self, out: Tensor, magnitude: Tensor) -> Tensor:
        """`out` plus errors of up to `magnitude` unit roundoffs, uniform, keyed by the value itself."""
        salt = int(torch.randint(-(1 << 31), 1 << 31, (1,), generator=self._generator))
        bits = out.to(torch.float32).view(torch.int32)
        mixed = (bits ^ salt) * _HASHES[0]
        mixed = (mixed ^ (mixed >> 15)) * _HASHES[1]  # int32 products wrap around
        noise = mixed.to(torch.float64).mul_(self.unit * 2.0**-31)
        return out + noise.mul_(magnitude).nan_to_num_(0.0, 0.0, 0.0)  # a masked score is infinite and exact


def _relative(ulps: float) -> Callable[..., Tensor]:
    """Errors relative to the result."""

    def magnitude(out: Tensor, *_: Any) -> Tensor:
        return ulps * out.abs()

    return magnitude


def _sum_error(terms: int, squares: Tensor, total: Tensor) -> Tensor:
    """Root mean square error of adding up `terms` numbers one after the other, in unit roundoffs.

    Each partial sum S_k is rounded: the variance is sum_k S_k^2. Terms of random sign with mean square m make
    S_k^2 = k m on average, equal terms S_k = k total / n: n / 2 sum a^2 and n / 3 total^2; what lies between lies
    below the sum of both.
    """
    return (terms * (squares / 2 + total.square() / 3)).sqrt()


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
    terms = torch.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    return (terms * (x.square().cumsum(axis) / 2 + out.square() / 3)).sqrt()


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
    **dict.fromkeys(("exp", "log", "sqrt"), _relative(2)),
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
}
"""By operation, the largest error of one result in unit roundoffs. Operations that are not here do not round."""
