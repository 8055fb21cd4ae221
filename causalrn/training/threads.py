"""How many threads training takes, and what is said when they get in each other's way."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections import deque
from collections.abc import Iterator

import psutil
import torch

from causalrn.compiling.processor import usable_processors
from causalrn.model.operators.c_library import using_threads

_LOOK_S = 0.2
_FIRST, _RECENT = 8, 8
_SLOWER = 4.0
_WORTH_THREADS = 1 << 26


def free_cores() -> int:
    """Physical cores that this process may use and that others leave alone just now; at least 1.

    Threads of PyTorch wait for each other at every operation: two of them on two cores where others compute, too, take
    up to 50 times as long as one.
    """
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    busy = psutil.cpu_percent(_LOOK_S) / 100 * physical
    return max(1, round(min(physical, usable_processors() * physical / logical) - busy))


def default_threads() -> int:
    """What PyTorch was told by OMP_NUM_THREADS (torchrun does that), else :func:`free_cores`."""
    return torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else free_cores()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Inside, one operation of PyTorch takes so many threads; None leaves its setting alone."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def computing_with(threads: int | None, multiplications: int) -> Iterator[None]:
    """Inside, sums over pairs and norms take so many threads, and so do matrix products where they are worth it.

    Threads of PyTorch wait for each other at every operation. Copying 16 letters with E = H = 64 on two cores a step
    takes 31 ms with one thread in them and two in C, 51 ms with two in both; with E = H = 192, T = 130 it is 311 and
    236 ms.

    Args:
        threads: None leaves both at what PyTorch is set to.
        multiplications: of one matrix product.
    """
    count = threads or torch.get_num_threads()
    with torch_threads(count if multiplications >= _WORTH_THREADS else 1), using_threads(count):
        yield


class SlowSteps:
    """Watches how long steps take, and says once when they have become many times slower than the first ones."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._told = False

    def note(self, seconds: float) -> str | None:
        """Add a step; gives a hint when it is time for one."""
        if len(self._first) <= _FIRST:
            self._first.append(seconds)
            return None
        self._recent.append(seconds)
        usual = statistics.median(self._first[1:])  # the first step of all loads and compiles
        if self._told or len(self._recent) < _RECENT or statistics.median(self._recent) < _SLOWER * usual:
            return None
        self._told = True
        slower = f"steps take {statistics.median(self._recent) / usual:.0f} times as long as at the start"
        if self._threads == 1:
            return f"{slower}: other processes need this processor"
        return (
            f"{slower}: other processes need this processor, and {self._threads} threads wait for each other; "
            "interrupt and resume with `threads` 1"
        )
