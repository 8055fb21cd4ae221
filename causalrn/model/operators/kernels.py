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
from causalrn.model.operators import c_kernels, c_library, tiles
from causalrn.model.operators.functions import PairFunction


class Kernel(Protocol):
    """One way of computing the sum; a module is one."""

    def sum_pairs(self, q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
        """Sum f(q_i + k_j) over the past: q [B, T, G, D], k [B, S, G, D], S >= T -> [B, T, G, D]."""
        ...

    def differentiate_pairs(
        self, q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction
    ) -> tuple[Tensor, Tensor]:
        """The gradients of q and k from that of the sum, `gradient` [B, T, G, D]."""
        ...


KERNELS: dict[str, Kernel] = {"tiles": tiles, "c": c_kernels}

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
    if chosen == "tiles" or (chosen == "auto" and device != "cpu"):
        return "tiles"
    reason = c_library.why_not(device, dtype)
    if not reason:
        return "c"
    if chosen == "c":
        raise RuntimeUnavailableError(f"kernel c: {reason}")
    if dtype in c_library.DTYPES and reason not in _noted:
        _noted.add(reason)
        warnings.warn(f"sums over pairs and norms run in PyTorch, several times slower ({reason})", FallbackWarning, 2)
    return "tiles"
