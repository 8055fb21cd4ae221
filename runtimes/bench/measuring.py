"""Measuring a machine's constants with micro-kernels: loops in C that do one thing, graphs that hold one thing."""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np

from causalrn.compiling.c_compiler import shared_library
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.system import installed_bytes
from causalrn.runtimes.bench.timing import fastest_s
from causalrn.runtimes.environment import processor_name
from causalrn.runtimes.snapshot import Array
from causalrn.runtimes.state_buffers import aligned_zeros

ISAS = {"portable": (), "avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f",)}
"""Vector instructions, and what the compiler has to be told; in the order of kernels.c's `best_isa`."""
_KERNEL_SHAPE = (16, 192)
_CALL_S, _REPEATS = 0.002, 5
_THREADED_CALL_S, _THREADED_REPEATS = 0.04, 2
"""A call takes about so long: threads need some milliseconds until each has a core of its own."""
_SIZES = tuple(1 << power for power in range(16, 29))
"""64 KiB to 256 MiB: from the first-level cache to memory, at most an eighth of it."""
LARGEST_READ = _SIZES[-1]
"""More than that is read no slower: what is larger is taken for as large."""


def measure_machine(threads: int = 1) -> Machine:
    """Measure all constants of this machine; takes a few seconds.

    Raises:
        RuntimeUnavailableError: there is no C compiler.
    """
    from causalrn.runtimes.bench.ort_measuring import measure_onnxruntime

    memory = installed_bytes()
    sizes = [size for size in _SIZES if size <= memory // 8]
    rates = Kernels(threads).rates(sizes)
    return dataclasses.replace(rates, memory_bytes=memory, onnxruntime=measure_onnxruntime(threads))


class Kernels:
    """kernels.c, compiled for the best vector instructions that this processor has.

    Args:
        threads: that do the same at once; rates are those of all of them together.

    Attributes:
        isa: a key of :data:`ISAS`.

    Raises:
        RuntimeUnavailableError: there is no C compiler.
    """

    def __init__(self, threads: int = 1, isa: str | None = None) -> None:
        self.threads = threads
        best = list(ISAS)[_library("portable").best_isa()]
        self.isa = isa or best
        self._library = _library(self.isa)
        self._pool = ThreadPoolExecutor(threads)
        rows, columns = _KERNEL_SHAPE
        self._rows = [aligned_zeros(_KERNEL_SHAPE, np.float32) for _ in range(threads)]
        self._sums = [aligned_zeros((columns,), np.float32) for _ in range(threads)]
        self._bytes = [aligned_zeros((rows, columns), np.int8) for _ in range(threads)]

    def rates(self, sizes: Sequence[int]) -> Machine:
        """What this machine can do; reading at the given sizes in bytes, ascending."""
        return Machine(
            name=processor_name(),
            source=f"measured on {datetime.date.today().isoformat()}",
            bytes_per_s=tuple((float(size), self.bytes_per_s(size)) for size in sizes),
            exps_per_s=self.exps_per_s(),
            products_per_s=self.products_per_s(),
            int8_products_per_s=self.int8_products_per_s(),
            threads=self.threads,
            isa=self.isa,
        )

    def exps_per_s(self) -> float:
        """One exp per element of 16 rows of 192."""
        return self._rate(self._library.exps, [self._sums, self._rows])

    def products_per_s(self) -> float:
        """Multiply-accumulates in float32."""
        return self._rate(self._library.products, [self._rows])

    def int8_products_per_s(self) -> float:
        """Multiply-accumulates with weights of 8 bits."""
        return self._rate(self._library.int8_products, [self._bytes])

    def bytes_per_s(self, size_bytes: int) -> float:
        """Reading so much memory again and again."""
        floats = _whole_vectors(min(size_bytes, LARGEST_READ), self.threads)
        values = [aligned_zeros((floats,), np.float32) for _ in range(self.threads)]
        for array in values:
            array[...] = 1.0

        def read(times: int, array: Array) -> None:
            self._library.read_floats(_address(array), ctypes.c_size_t(floats), ctypes.c_size_t(times))

        return 4 * floats * self._times_per_s(read, [values])

    def _rate(self, kernel: Any, arrays: Sequence[Sequence[Array]]) -> float:
        def call(times: int, *own: Array) -> None:
            kernel(*map(_address, own), ctypes.c_size_t(times))

        return math.prod(_KERNEL_SHAPE) * self._times_per_s(call, arrays)

    def _times_per_s(self, call: Callable[..., None], arrays: Sequence[Sequence[Array]]) -> float:
        """How often a kernel runs per second, in all threads together; ctypes lets Python's lock go meanwhile."""

        def run(times: int) -> None:
            if self.threads == 1:
                call(times, *(each[0] for each in arrays))
            else:
                list(self._pool.map(partial(call, times), *arrays))

        call_s, repeats = (_CALL_S, _REPEATS) if self.threads == 1 else (_THREADED_CALL_S, _THREADED_REPEATS)
        times = max(1, round(_CALL_S / fastest_s(lambda: run(1), 2)))
        times = max(1, round(times * call_s / fastest_s(lambda: run(times), 1)))  # the first guess is mostly overhead
        return self.threads * times / fastest_s(lambda: run(times), repeats)


def _whole_vectors(size_bytes: int, threads: int) -> int:
    """Floats for each thread, a multiple of 128."""
    return max(1, size_bytes // 4 // 128 // threads) * 128


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def _library(isa: str) -> Any:
    source = (files("causalrn.runtimes.bench") / "kernels.c").read_bytes()
    flags = ("-fvisibility=hidden", "-ffp-contract=fast", *ISAS[isa])
    library = ctypes.CDLL(str(shared_library({"kernels.c": source}, flags, "kernels.c")))
    for kernel in (library.read_floats, library.exps, library.products, library.int8_products):
        kernel.restype = ctypes.c_float
    return library
