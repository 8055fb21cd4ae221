"""The sum over pairs in C (c/), compiled once for this processor and called through ctypes on a tensor's own memory."""

from __future__ import annotations

import ctypes
import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalrn.compiling.c_compiler import find_compiler, shared_library
from causalrn.compiling.processor import vector_flags
from causalrn.errors import RuntimeUnavailableError
from causalrn.model.pair_sum.pair_function import PairFunction

DTYPES = (torch.float32, torch.float64)
_SOURCES = ("pair_sum.c", "threads.h", "vectors.h", "activations.h", "groups.h", "passes.h")
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-lm")
"""NaN and infinity keep their meaning; sums stay in their order."""


class _Shape(ctypes.Structure):
    """`Shape` of pair_sum.c."""

    _fields_ = [  # as ctypes wants it
        *((name, ctypes.c_int64) for name in ("batch", "queries", "keys", "heads", "width")),
        *((name, ctypes.c_int64) for name in ("query_batch_stride", "query_stride")),
        *((name, ctypes.c_int64) for name in ("key_batch_stride", "key_stride", "threads")),
        ("eps", ctypes.c_double),
    ]


def why_not(device: str, dtype: torch.dtype) -> str:
    """Why this kernel cannot be used for such tensors here; empty where it can. Nothing is compiled to find out."""
    if device != "cpu" or dtype not in DTYPES:
        return f"it is for float32 and float64 on a CPU, not {str(dtype).removeprefix('torch.')} on {device}"
    return _compiler_missing()


@functools.cache
def _compiler_missing() -> str:
    try:
        find_compiler()
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def forward(q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
    """See :class:`causalrn.model.pair_sum.kernels.Kernel`.

    Raises:
        RuntimeUnavailableError: the compiler does not work.
    """
    q, k = q.contiguous(), _rows(k)
    out = torch.empty_like(q)
    _check(_library(function, q.dtype).causalrn_pair_sum(_shape(q, k, function), *map(_address, (q, k, out))))
    return out


def backward(q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction) -> tuple[Tensor, Tensor]:
    """See :class:`causalrn.model.pair_sum.kernels.Kernel`."""
    q, k, gradient = q.contiguous(), k.contiguous(), gradient.contiguous()
    gradient_q, gradient_k = torch.empty_like(q), torch.empty_like(k)
    addresses = map(_address, (q, k, gradient, gradient_q, gradient_k))
    _check(_library(function, q.dtype).causalrn_pair_sum_gradients(_shape(q, k, function), *addresses))
    return gradient_q, gradient_k


def _rows(x: Tensor) -> Tensor:
    """[B, T, G, D] with heads and channels side by side; other strides may be any."""
    return x if x.stride()[2:] == (x.shape[3], 1) else x.contiguous()


def _shape(q: Tensor, k: Tensor, function: PairFunction) -> Any:
    batch, queries, heads, width = q.shape
    strides = (*q.stride()[:2], *k.stride()[:2])
    return ctypes.byref(
        _Shape(batch, queries, k.shape[1], heads, width, *strides, torch.get_num_threads(), function.eps)
    )


def _address(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _check(status: int) -> None:
    if status:
        raise MemoryError("the sum over pairs: no memory for the keys of one sequence")


@functools.cache
def _library(function: PairFunction, dtype: torch.dtype) -> ctypes.CDLL:
    """The library for a function, whatever its eps is."""
    return _load(function.activation, function.normalized, dtype == torch.float64)


@functools.cache
def _load(activation: str, normalized: bool, double: bool) -> ctypes.CDLL:
    folder = files("causalrn.model.pair_sum") / "c"
    sources = {name: (folder / name).read_bytes() for name in _SOURCES}
    defines = (f"-DACTIVATION={activation.upper()}", f"-DNORMALIZED={normalized:d}", f"-DUSE_DOUBLE={double:d}")
    path: Path = shared_library(sources, (*_FLAGS, *vector_flags(), *defines), _SOURCES[0])
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeUnavailableError(f"{path}: {error}: delete it, or set CC to another compiler") from None
