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
from causalrn.runtimes.rounding.errors import error_of
from causalrn.runtimes.rounding.kinds import MOVES, tensors_in, unknown_error

_HASHES = (0x9E3779B1 - (1 << 32), 0x85EBCA6B - (1 << 32))  # odd multipliers, as signed 32-bit numbers
_EXPONENT = 0x7F800000
_ROUNDED = (torch.float32, torch.float64, torch.complex64, torch.complex128)


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
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        magnitude = error_of(function)
        if name == "abs" and args[0].is_complex():
            magnitude = _root  # of the sum of two squares
        if magnitude is None and function._can_decompose() and name not in MOVES:
            return self._in_parts(function, args, kwargs)
        out = function(*args, **kwargs)
        if magnitude is None:
            return out
        in_place = name.endswith("_") or "out" in kwargs
        if isinstance(out, tuple | list):  # of several results each has an error, and the table knows the first one's
            kinds = [magnitude, *[unknown_error] * (len(out) - 1)]
            return type(out)(
                self._perturbed(name, value, kind, args, kwargs, in_place=in_place)
                for value, kind in zip(out, kinds, strict=True)
            )
        return self._perturbed(name, out, magnitude, args, kwargs, in_place=in_place)

    def _perturbed(
        self,
        name: str,
        out: Any,
        magnitude: Callable[..., Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        in_place: bool,
    ) -> Any:
        """A result with an error; the real and the imaginary part of a complex one have one each."""
        if not isinstance(out, Tensor) or out.dtype not in _ROUNDED or out.layout != torch.strided or not out.numel():
            return out
        named = {option: value for option, value in kwargs.items() if option != "out"}
        if any(value.is_complex() for value in tensors_in((out, args, named))):
            sizes = _sizes(magnitude, out, args, named)
        else:
            sizes = magnitude(out, *args, **named).double()
        if out.is_complex():
            sizes = sizes.expand(out.shape)[..., None]
            noise = torch.view_as_complex(self._noise(_key(name, out, args), sizes)).to(out.dtype)
        else:
            noise = self._noise(_key(name, out, args), sizes).to(out.dtype)
        return out.add_(noise) if in_place else out + noise

    def _in_parts(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An operation that consists of others, of which each is perturbed."""
        super().__enter__()  # type: ignore[no-untyped-call]
        try:
            return function.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

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


def _root(out: Tensor, *_: Any) -> Tensor:
    return out


def _sizes(magnitude: Callable[..., Tensor], out: Tensor, args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """The error of an operation on complex numbers, from absolute values; products add up two products in each part."""

    def size(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(size(part) for part in value)
        if isinstance(value, complex):
            return abs(value)
        return value.abs() if isinstance(value, Tensor) and value.is_complex() else value

    return 2 * magnitude(size(out), *map(size, args), **{key: size(value) for key, value in named.items()}).double()


def _key(name: str, out: Tensor, args: Sequence[Any]) -> Tensor:
    """What a rounding error depends on, as int32: the value that is rounded; for a sum of two the smaller one.

    Adding m to a float32 S is off by m modulo the last place of the result: a running sum of equal terms makes the same
    error at every step, until its exponent changes.
    """
    if out.is_complex():
        return torch.view_as_real(out.resolve_conj()).to(torch.float32).view(torch.int32)  # [..., 2]
    bits = out.to(torch.float32).view(torch.int32)
    both = all(isinstance(arg, Tensor) and arg.is_floating_point() for arg in args[:2])
    if name.rstrip("_") not in ("add", "sub") or not both:
        return bits
    first, second = args[:2]
    smaller = torch.where(first.abs() < second.abs(), first, second).to(torch.float32)
    if smaller.shape != out.shape:
        return bits
    return smaller.view(torch.int32) ^ (bits & _EXPONENT)
