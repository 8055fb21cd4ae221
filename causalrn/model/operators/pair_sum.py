"""The sum over pairs as an operator of PyTorch: autograd, torch.compile and DistributedDataParallel see one node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import KERNELS, choose_kernel
from causalrn.model.operators.registering import define_operator

Replacement = Callable[[Tensor, Tensor, PairFunction], Tensor]
"""(q, k, function) -> the sum, as :func:`pair_sum` has them."""
_replacement: ContextVar[Replacement | None] = ContextVar("replacement", default=None)


@contextlib.contextmanager
def replacing_pair_sum(replacement: Replacement) -> Iterator[None]:
    """Inside, sums over pairs that tiles would compute are what another function makes of them, without gradients."""
    token = _replacement.set(replacement)
    try:
        yield
    finally:
        _replacement.reset(token)


def pair_sum(q: Tensor, k: Tensor, *, activation: str, norm: str | None, eps: float = 0.0) -> Tensor:
    """Sum f(q_i + k_j) over the past, with f = activation after an optional LN0 over the last axis.

    Args:
        q: [B, T, G, D], float32 or float64; on a GPU also half precision, summed in float32 by Triton.
        k: [B, S, G, D], S >= T. The queries are the last T of S positions: query i reads the keys up to S - T + i.
        activation: "exp", "relu", "elu" or "gelu".
        norm: "layer" or "rms" to normalize every pair (the exact readout), None for none.
        eps: of that norm, beside the root.

    Returns:
        [B, T, G, D], not divided by the number of positions.

    Raises:
        RuntimeUnavailableError: the kernel that was asked for (:func:`causalrn.model.operators.kernels.using_kernel`)
            cannot be used here.
    """
    kernel = choose_kernel(q.device.type, q.dtype)
    out: Tensor
    if kernel == "tiles":  # in the open, for what watches single operations
        replacement = _replacement.get()  # here alone: torch.compile does not get as far
        if replacement is not None:
            return replacement(q, k, PairFunction(activation, norm, eps))
        out = _TiledSum.apply(q, k, PairFunction(activation, norm, eps))  # type: ignore[no-untyped-call]
        return out
    out = _sum(q, k, activation, norm, eps, kernel)
    return out


class _TiledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.function = function
        return KERNELS["tiles"].sum_pairs(q, k, function)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k = ctx.saved_tensors
        return (*KERNELS["tiles"].differentiate_pairs(q, k, grads[0], ctx.function), None)


def _run(q: Tensor, k: Tensor, activation: str, norm: str | None, eps: float, kernel: str) -> Tensor:
    return KERNELS[kernel].sum_pairs(q, k, PairFunction(activation, norm, eps))


def _like_result(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def _run_gradients(
    q: Tensor, k: Tensor, gradient: Tensor, activation: str, norm: str | None, eps: float, kernel: str
) -> tuple[Tensor, Tensor]:
    return KERNELS[kernel].differentiate_pairs(q, k, gradient, PairFunction(activation, norm, eps))


def _like_gradients(q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like_result(q), _like_result(k)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.function = inputs[2:]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(*ctx.saved_tensors, gradient, *ctx.function), None, None, None, None)


_OPTIONS = "str activation, str? norm, float eps, str kernel"
_sum = define_operator(
    f"pair_sum(Tensor q, Tensor k, {_OPTIONS}) -> Tensor", _run, _like_result, (_keep, _differentiate)
)
_gradients = define_operator(
    f"pair_sum_gradients(Tensor q, Tensor k, Tensor gradient, {_OPTIONS}) -> (Tensor, Tensor)",
    _run_gradients,
    _like_gradients,
)
