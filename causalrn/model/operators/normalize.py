"""LN0 as an operator of PyTorch, with the kernels that sums over pairs have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causalrn.model import normalization
from causalrn.model.normalization import MEAN_SQUARE_FLOOR
from causalrn.model.operators import c_kernels
from causalrn.model.operators.functions import Norm
from causalrn.model.operators.kernels import choose_kernel
from causalrn.model.operators.registering import define_operator


def normalize(x: Tensor, norm: str, eps: float = 0.0) -> Tensor:
    """LN0 ("layer") or its RMS variant ("rms") over the last axis, [..., n] -> [..., n].

    :mod:`causalrn.model.normalization` has its definition, in PyTorch.
    """
    if choose_kernel(x.device.type, x.dtype) != "c":
        return normalization.normalize(x, norm, eps)
    out: Tensor = _normalize(x, norm == "layer", eps, False)[0]
    return out


def normalize_sums(o: Tensor, norm: str, eps: float) -> Tensor:
    """:func:`normalize` of positive values whose squares may overflow: x / c normalized with eps / c is the same."""
    if choose_kernel(o.device.type, o.dtype) == "c":
        out: Tensor = _normalize(o, norm == "layer", eps, True)[0]
        return out
    largest = o.detach().amax(-1, keepdim=True).clamp_min(MEAN_SQUARE_FLOOR)
    return normalization.normalize(o / largest, norm, eps / largest if eps else 0.0)


def _run(x: Tensor, centred: bool, eps: float, rescaled: bool) -> tuple[Tensor, Tensor]:
    return c_kernels.normalize(x, Norm(centred, eps, rescaled))


def _like_result(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(*x.shape[:-1], 1)


def _run_gradient(out: Tensor, scale: Tensor, gradient: Tensor, centred: bool, eps: float, rescaled: bool) -> Tensor:
    return c_kernels.differentiate_norm(out, scale, gradient, Norm(centred, eps, rescaled))


def _like_gradient(out: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(out)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """The result is kept by the next linear map anyway: no memory of its own."""
    ctx.save_for_backward(*output)
    ctx.norm = inputs[1:]


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (_gradient(*ctx.saved_tensors, gradient, *ctx.norm), None, None, None)


_OPTIONS = "bool centred, float eps, bool rescaled"
_normalize = define_operator(
    f"normalize(Tensor x, {_OPTIONS}) -> (Tensor, Tensor)", _run, _like_result, (_keep, _differentiate)
)
_gradient = define_operator(
    f"normalize_gradient(Tensor out, Tensor scale, Tensor gradient, {_OPTIONS}) -> Tensor",
    _run_gradient,
    _like_gradient,
)
