"""Which family of processors this is: those whose instruction sets round, and saturate, in the same way; how many.

Needs psutil alone; numpy, where it is there, knows the processor when /proc/cpuinfo does not, or tells of
another one (an emulator's host).
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

ARM_DOT_PRODUCT = "-march=armv8.2-a+dotprod"
_X86, _ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
_X86_FAMILIES = (
    ({"avx512f", "avx512_vnni"}, "x86-64 AVX-512 VNNI"),
    ({"avx512f"}, "x86-64 AVX-512"),
    ({"avx2", "avx_vnni"}, "x86-64 AVX-VNNI"),
    ({"avx2"}, "x86-64 AVX2"),
    (set[str](), "x86-64 SSE"),
)
_ARM_FAMILIES = (({"asimddp"}, "aarch64 dot product"), (set[str](), "aarch64"))
_BY_NUMPY = {
    "X86_V3": "avx2",
    "X86_V4": "avx512f",
    "AVX2": "avx2",
    "AVX512F": "avx512f",
    "AVX512_SKX": "avx512f",
    "AVX512_CLX": "avx512_vnni",
    "ASIMDDP": "asimddp",
}
"""By numpy's names, what Linux calls them."""
_MORE_THAN_VNNI = "AVX512_ICL"
"""Holds VNNI and more: where it is missing, as on Cascade Lake, VNNI may be there."""


@functools.cache
def processor_family() -> str:
    """The family of this machine's processor, e.g. "x86-64 AVX2"; of others the machine's name as Python has it."""
    machine = platform.machine().lower()
    if machine in _X86:
        return _name(_X86_FAMILIES, _flags())
    return _name(_ARM_FAMILIES, _flags()) if machine in _ARM else machine or "unknown"


def vector_flags() -> tuple[str, ...]:
    """What GCC and Clang have to be told to use this processor's widest vectors."""
    if platform.machine().lower() not in _X86:
        return ()
    flags = _flags()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")
    return ("-mavx2", "-mfma") if {"avx2", "fma"} <= flags else ()


def dot_product_flags() -> tuple[str, ...]:
    """What GCC and Clang have to be told to use an ARM processor's dot product of int8; nothing on other processors."""
    is_arm = platform.machine().lower() in _ARM
    return (ARM_DOT_PRODUCT,) if is_arm and "asimddp" in _flags() else ()


def usable_processors() -> int:
    """Logical processors that this process may run on, which may be fewer than the machine has."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def _name(families: Collection[tuple[Collection[str], str]], flags: Collection[str]) -> str:
    return next(name for needed, name in families if set(needed) <= set(flags))


def _flags() -> set[str]:
    """Instruction sets, by Linux' names. Linux tells of another processor where numpy misses some."""
    found, missing = _numpy_features()
    listed = _cpuinfo_flags()
    return found if listed & missing else listed | found


def _cpuinfo_flags() -> set[str]:
    """As Linux lists them; nothing elsewhere."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    entry = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", content, re.MULTILINE)
    return set() if entry is None else set(entry[1].split())


def _numpy_features() -> tuple[set[str], set[str]]:
    """What numpy found of the instruction sets that it was built for, and what it did not; nothing without numpy."""
    try:
        import numpy as np

        sets: Any = np.show_config(mode="dicts")
        sets = sets["SIMD Extensions"]
        found, missing = ([str(name) for name in sets.get(key, ())] for key in ("found", "not found"))
    except Exception:  # no numpy, one that is broken, older than 1.26, or built without: it says nothing then
        return set(), set()
    known, absent = ({_BY_NUMPY[name] for name in names if name in _BY_NUMPY} for names in (found, missing))
    known |= {"avx512_vnni"} if _MORE_THAN_VNNI in found else set()
    known |= {"fma"} if {"X86_V3", "FMA3"} & set(found) else set()
    return known, absent - known
