"""The table of what computes the sum over pairs, and which of them is used."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from causalrn.errors import FallbackWarning, RuntimeUnavailableError
from causalrn.model.operators import c_kernels, tiles, triton_kernels
from causalrn.model.operators.functions import PairFunction


class Kernel(Protocol):
    """One way of computing the sum; a module is one.

    Attributes:
        DEVICE: the type of device that it is made for.
        AUTOMATIC: whether "auto" takes it there.
        DTYPES: those that it takes there.
        WITHOUT_IT: what its users notice where it cannot be used.
    """

    DEVICE: str
    AUTOMATIC: bool
    DTYPES: tuple[torch.dtype, ...]
    WITHOUT_IT: str

    def why_not(self, device: str, dtype: torch.dtype) -> str:
        """Why it cannot be used for such tensors here; empty where it can. Called once per operation: it is quick."""
        ...

    def sum_pairs(self, q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
        """Sum f(q_i + k_j) over the past: q [B, T, G, D], k [B, S, G, D], S >= T -> [B, T, G, D]."""
        ...

    def differentiate_pairs(
        self, q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction
    ) -> tuple[Tensor, Tensor]:
        """The gradients of q and k from that of the sum, `gradient` [B, T, G, D]."""
        ...


KERNELS: dict[str, Kernel] = {"triton": triton_kernels, "c": c_kernels, "tiles": tiles}
"""Every kernel; "auto" takes the first of its device that is automatic and works. The last one always works."""

_chosen: ContextVar[str] = ContextVar("kernel", default="auto")
_noted: set[str] = set()


@contextlib.contextmanager
def using_kernel(name: str) -> Iterator[None]:
    """Inside, sums over pairs are computed by this kernel.

    Args:
        name: one of :data:`causalrn.model.operators.functions.KERNEL_CHOICES`; "auto" takes the fastest
            that works here.
    """
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose_kernel(device: str, dtype: torch.dtype) -> str:
    """The name of the kernel for tensors on a type of device.

    Raises:
        RuntimeUnavailableError: the one that was asked for cannot be used here.
    """
    chosen = _chosen.get()
    if chosen == "auto":
        return _fastest_kernel(device, dtype)
    reason = KERNELS[chosen].why_not(device, dtype)
    if reason:
        raise RuntimeUnavailableError(f"kernel {chosen}: {reason}")
    return chosen


def _fastest_kernel(device: str, dtype: torch.dtype) -> str:
    for name, kernel in KERNELS.items():
        if not kernel.AUTOMATIC or device != kernel.DEVICE or dtype not in kernel.DTYPES:
            continue
        reason = kernel.why_not(device, dtype)
        if not reason:
            return name
        if reason not in _noted:
            _noted.add(reason)
            warnings.warn(f"{kernel.WITHOUT_IT} ({reason})", FallbackWarning, 3)
    return "tiles"
