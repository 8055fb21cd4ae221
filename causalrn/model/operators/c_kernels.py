"""Sums over pairs and LN0 in C, on the tensors' own memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from causalrn.model.operators.c_library import DTYPES as DTYPES
from causalrn.model.operators.c_library import addresses, check, kernel_threads, load_library
from causalrn.model.operators.c_library import why_not as why_not
from causalrn.model.operators.functions import Norm, PairFunction
from causalrn.model.operators.pair_shapes import check_pair

DEVICE, AUTOMATIC = "cpu", True
WITHOUT_IT = "sums over pairs and norms run in PyTorch, several times slower"


class _PairShape(ctypes.Structure):
    """`Shape` of pair_sum.c."""

    _fields_ = [  # as ctypes wants it
        *((name, ctypes.c_int64) for name in ("batch", "queries", "keys", "heads", "width")),
        *((name, ctypes.c_int64) for name in ("query_batch_stride", "query_stride")),
        *((name, ctypes.c_int64) for name in ("key_batch_stride", "key_stride", "centred", "threads")),
        ("eps", ctypes.c_double),
    ]


class _NormShape(ctypes.Structure):
    """`NormShape` of normalize.c."""

    _fields_ = [  # as ctypes wants it
        *((name, ctypes.c_int64) for name in ("rows", "width", "centred", "rescaled", "threads")),
        ("eps", ctypes.c_double),
    ]


def sum_pairs(q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
    """See :class:`causalrn.model.operators.kernels.Kernel`.

    Raises:
        RuntimeUnavailableError: the compiler does not work.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    check_pair(q, k)
    q, k = q.contiguous(), _rows(k)
    out = torch.empty_like(q)
    if not q.numel():
        return out
    check(_pair_library(function, q.dtype).causalrn_pair_sum(_pair_shape(q, k, function), *addresses(q, k, out)))
    return out


def sum_pairs_noisily(q: Tensor, k: Tensor, function: PairFunction, salts: Sequence[int]) -> Tensor:
    """:func:`sum_pairs` in float64, with errors as if every operation were rounded to float32.

    Args:
        q, k: float64; with a norm that centres, centred already.
        salts: three numbers of 32 bits: others give other errors.
    """
    check_pair(q, k)
    q, k = q.contiguous(), _rows(k)
    out = torch.empty_like(q)
    if q.numel():
        library = load_library("noisy_pair_sum.c", q.dtype, _defines(function))
        shape = _pair_shape(q, k, function._replace(norm=function.norm and "rms"))
        check(library.causalrn_noisy_pair_sum(shape, (ctypes.c_uint64 * 3)(*salts), *addresses(q, k, out)))
    return out


def differentiate_pairs(q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction) -> tuple[Tensor, Tensor]:
    """See :class:`causalrn.model.operators.kernels.Kernel`."""
    check_pair(q, k)
    check_pair(q, gradient)
    q, k, gradient = q.contiguous(), k.contiguous(), gradient.contiguous()
    if not q.numel():
        return torch.zeros_like(q), torch.zeros_like(k)
    gradient_q, gradient_k = torch.empty_like(q), torch.empty_like(k)
    arguments = addresses(q, k, gradient, gradient_q, gradient_k)
    library = _pair_library(function, q.dtype)
    check(library.causalrn_pair_sum_gradients(_pair_shape(q, k, function), *arguments))
    return gradient_q, gradient_k


def normalize(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """LN0 of x [..., n], and what the centred x was scaled with [..., 1]."""
    x = x.contiguous()
    out, scale = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
    library = load_library("normalize.c", x.dtype)
    check(library.causalrn_normalize(_norm_shape(x, norm), *addresses(x, out, scale)))
    return out, scale


def differentiate_norm(out: Tensor, scale: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """The gradient of x from that of :func:`normalize`'s result and from what it gave."""
    gradient = gradient.contiguous()
    gradient_x = torch.empty_like(out)
    arguments = addresses(out, scale, gradient, gradient_x)
    check(load_library("normalize.c", out.dtype).causalrn_normalize_gradient(_norm_shape(out, norm), *arguments))
    return gradient_x


def _rows(x: Tensor) -> Tensor:
    """[B, T, G, D] with heads and channels side by side; other strides may be any."""
    return x if x.stride()[2:] == (x.shape[3], 1) else x.contiguous()


def _pair_library(function: PairFunction, dtype: torch.dtype) -> ctypes.CDLL:
    return load_library("pair_sum.c", dtype, _defines(function))


def _defines(function: PairFunction) -> tuple[str, ...]:
    return f"-DACTIVATION={function.activation.upper()}", f"-DNORMALIZED={function.norm is not None:d}"


def _pair_shape(q: Tensor, k: Tensor, function: PairFunction) -> Any:
    batch, queries, heads, width = q.shape
    sizes = (batch, queries, k.shape[1], heads, width, *q.stride()[:2], *k.stride()[:2])
    return ctypes.byref(_PairShape(*sizes, function.norm == "layer", kernel_threads(), function.eps))


def _norm_shape(x: Tensor, norm: Norm) -> Any:
    width = x.shape[-1]
    sizes = (x.numel() // width, width, norm.centred, norm.rescaled)
    return ctypes.byref(_NormShape(*sizes, kernel_threads(), norm.eps))
