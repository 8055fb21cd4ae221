"""The C in c/, compiled once for this processor, and how a tensor is handed to it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.resources import files

import torch
from torch import Tensor

from causalrn.compiling.c_compiler import find_compiler, shared_library
from causalrn.compiling.code_cache import CACHE_VARIABLE
from causalrn.compiling.processor import vector_flags
from causalrn.errors import RuntimeUnavailableError

DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-lm")
"""NaN and infinity keep their meaning; sums stay in their order."""
_DECIDING = ("CC", "PATH", CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME")
_threads: ContextVar[int] = ContextVar("threads", default=0)


def why_not(device: str, dtype: torch.dtype) -> str:
    """Why C cannot be used for such tensors here; empty where it can, which is tried once."""
    if device != "cpu" or dtype not in DTYPES:
        return f"it is for float32 and float64 on a CPU, not {str(dtype).removeprefix('torch.')} on {device}"
    return _why_unavailable(*map(os.environ.get, _DECIDING))


@functools.cache
def _why_unavailable(*deciding: str | None) -> str:
    """Empty where a compiler is found that makes a library of the smallest source, and it can be loaded.

    Args:
        deciding: values of :data:`_DECIDING`, with which the answer may change.
    """
    try:
        find_compiler()
        load_library("normalize.c", torch.float32)
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def load_library(source: str, dtype: torch.dtype, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A source of c/ as a library, loaded once: another compiler makes another one, which may round otherwise.

    Args:
        source: its name.
        dtype: of the tensors that it is for, one of :data:`DTYPES`.
        defines: options of the compiler, e.g. "-DNORMALIZED=1".

    Raises:
        RuntimeUnavailableError: it cannot be compiled or loaded here.
    """
    return _loaded(source, dtype, defines, os.environ.get("CC"), os.environ.get("PATH"))


@functools.cache
def _loaded(source: str, dtype: torch.dtype, defines: tuple[str, ...], *compiler: str | None) -> ctypes.CDLL:
    """See :func:`load_library`; `compiler` is what it is found by."""
    folder = files("causalrn.model.operators") / "c"
    headers = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".h"))
    sources = {name: (folder / name).read_bytes() for name in (source, *headers)}
    double = f"-DUSE_DOUBLE={dtype == torch.float64:d}"
    path = shared_library(sources, (*_FLAGS, *vector_flags(), double, *defines), source)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeUnavailableError(f"{path}: {error}: delete it, or set CC to another compiler") from None


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Inside, in this thread, C takes so many threads, whatever the operations of PyTorch take."""
    token = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(token)


def kernel_threads() -> int:
    """Threads of one call; as many as an operation of PyTorch takes, unless :func:`using_threads` says otherwise."""
    return _threads.get() or torch.get_num_threads()


def addresses(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Where the elements of tensors lie."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def check(status: int) -> None:
    """Raise for what a function returned.

    Raises:
        MemoryError: there is none for what a task works with.
    """
    if status:
        raise MemoryError("no memory for the keys of one sequence")
