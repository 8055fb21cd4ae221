"""LN0 as an operator of PyTorch, with the kernels that sums over pairs have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causalrn.model import normalization
from causalrn.model.normalization import MEAN_SQUARE_FLOOR, Eps
from causalrn.model.operators import c_kernels
from causalrn.model.operators.functions import Norm
from causalrn.model.operators.kernels import choose_kernel


def normalize(x: Tensor, norm: str, eps: Eps = 0.0) -> Tensor:
    """LN0 ("layer") or its RMS variant ("rms") over the last axis, [..., n] -> [..., n]; eps a number or [..., 1].

    :mod:`causalrn.model.normalization` has its definition, in PyTorch.
    """
    if isinstance(eps, Tensor) or choose_kernel(x.device.type, x.dtype) != "c":
        return normalization.normalize(x, norm, eps)
    out: Tensor = _normalize(x, norm == "layer", eps)[0]
    return out


def normalize_sums(o: Tensor, norm: str, eps: float) -> Tensor:
    """:func:`normalize` of positive values whose squares may overflow: x / c normalized with eps / c is the same."""
    largest = o.detach().amax(-1, keepdim=True).clamp_min(MEAN_SQUARE_FLOOR)
    return normalize(o / largest, norm, eps / largest)


@torch.library.custom_op("causalrn::normalize", mutates_args=())
def _normalize(x: Tensor, centred: bool, eps: float) -> tuple[Tensor, Tensor]:
    return c_kernels.normalize(x, Norm(centred, eps))


@_normalize.register_fake
def _(x: Tensor, centred: bool, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(*x.shape[:-1], 1)


@torch.library.custom_op("causalrn::normalize_gradient", mutates_args=())
def _gradient(out: Tensor, scale: Tensor, gradient: Tensor, centred: bool, eps: float) -> Tensor:
    return c_kernels.differentiate_norm(out, scale, gradient, Norm(centred, eps))


@_gradient.register_fake
def _(out: Tensor, scale: Tensor, gradient: Tensor, centred: bool, eps: float) -> Tensor:
    return torch.empty_like(out)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """The result is kept by the next linear map anyway: no memory of its own."""
    ctx.save_for_backward(*output)
    ctx.norm = inputs[1:]


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (_gradient(*ctx.saved_tensors, gradient, *ctx.norm), None, None)


_normalize.register_autograd(_differentiate, setup_context=_keep)
