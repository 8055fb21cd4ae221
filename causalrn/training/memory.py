"""How the C library hands out memory, for a process that trains and does little else."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
"""Of <malloc.h>."""


def return_freed_memory() -> None:
    """Have glibc map large tensors one by one instead of keeping them in its heap: for the whole process, for good.

    glibc before 2.38 does not reuse a freed aligned block for the next request of the same size: with its defaults a
    step of B=32, T=130, H=192, 12 blocks adds 990 MB, with this 180 to 280 MB, at the same speed. Other code pays for
    it: a temporary numpy array of 4 MB is mapped and zeroed anew each time, which took six times as long. So only
    the command that trains calls it, and no class of this package.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries do not have it, and do not need it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2 << 20)
