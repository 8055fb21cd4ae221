"""How the C library hands out memory, for a process that trains and does little else."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of <malloc.h>."""


def return_freed_memory() -> None:
    """Have glibc map large tensors one by one instead of keeping them in its heap: for the whole process, for good.

    Smaller ones stay in the heap, which is not given back after every step: a page that is new to the process takes
    microseconds to get (a step of B=64, T=34, H=64, 4 blocks: 36 ms, with this 28 ms).

    glibc before 2.38 does not reuse a freed aligned block for the next request of the same size: with its defaults a
    step of B=32, T=130, H=192, 12 blocks adds 990 MB, with this 180 to 280 MB, at the same speed. Other code pays for
    it: a temporary numpy array of 4 MB is mapped and zeroed anew each time, which took six times as long. So only
    the command that trains calls it, and no class of this package.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries do not have it, and do not need it
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 2 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
