"""The family of a processor: from what Linux lists and what numpy found, also where one of them says nothing."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from causalrn.compiling import processor as module
from causalrn.compiling.processor import ARM_DOT_PRODUCT, dot_product_flags, processor_family, vector_flags
from causalrn.runtimes.parity import report

FAMILY = processor_family.__wrapped__
NONE: dict[str, list[str]] = {}


def machine(monkeypatch, name, flags, extensions):
    """A machine with these lines in /proc/cpuinfo (None: there is no such file) and these findings of numpy's."""

    def read(path, encoding):
        if flags is None:
            raise FileNotFoundError(path)
        return f"model name : A\n{flags}\n"

    monkeypatch.setattr(platform, "machine", lambda: name)
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": extensions})


@pytest.mark.parametrize(
    ("name", "flags", "extensions", "family"),
    [
        ("x86_64", "flags\t\t: fpu sse2", NONE, "x86-64 SSE"),
        ("x86_64", "flags : fpu avx2 fma", NONE, "x86-64 AVX2"),
        ("x86_64", "flags : avx2 avx_vnni", NONE, "x86-64 AVX-VNNI"),
        ("x86_64", "flags : avx2 avx512f", {"found": ["X86_V3", "X86_V4"]}, "x86-64 AVX-512"),
        ("x86_64", "flags : avx2 avx512f avx512_vnni", NONE, "x86-64 AVX-512 VNNI"),
        # Cascade Lake has VNNI, and not all of Ice Lake's
        (
            "x86_64",
            "flags : avx512f avx512_vnni",
            {"found": ["X86_V4"], "not found": ["AVX512_ICL"]},
            "x86-64 AVX-512 VNNI",
        ),
        # an emulated Haswell on a host with AVX-512, whose /proc/cpuinfo it shows
        ("x86_64", "flags : avx2 avx512f avx512_vnni", {"found": ["X86_V3"], "not found": ["X86_V4"]}, "x86-64 AVX2"),
        ("x86_64", "flags : avx2 avx_vnni avx512f", {"found": ["X86_V3"], "not found": ["X86_V4"]}, "x86-64 AVX2"),
        ("x86_64", "flags : avx2 avx512f", {"not found": ["X86_V3", "X86_V4"]}, "x86-64 SSE"),
        ("AMD64", None, {"found": ["X86_V3", "X86_V4", "AVX512_ICL"]}, "x86-64 AVX-512 VNNI"),  # Windows
        ("AMD64", None, {"found": ["AVX2"], "not found": ["AVX512F", "AVX512_CLX"]}, "x86-64 AVX2"),  # an older numpy
        ("aarch64", "Features : fp asimd", NONE, "aarch64"),
        ("aarch64", "Features : fp asimd asimddp", NONE, "aarch64 dot product"),
        ("arm64", None, {"found": ["ASIMDDP"]}, "aarch64 dot product"),  # macOS
        ("riscv64", None, NONE, "riscv64"),
        ("", None, NONE, "unknown"),
    ],
)
def test_family_follows_from_instruction_sets(monkeypatch, name, flags, extensions, family):
    machine(monkeypatch, name, flags, extensions)
    assert FAMILY() == family


@pytest.mark.parametrize(
    ("flags", "extensions", "widest"),
    [
        ("flags : avx2 fma avx512f avx512bw avx512dq avx512vl", NONE, "-mavx512f"),
        ("flags : avx2 fma avx512f", NONE, "-mavx2"),  # the first ones with AVX-512 had no more of it
        (
            "flags : avx2 fma avx512f avx512bw avx512dq avx512vl",
            {"found": ["X86_V3"], "not found": ["X86_V4"]},
            "-mavx2",
        ),
        ("flags : avx2", NONE, None),
    ],
)
def test_vectors_are_as_wide_as_the_processor_has_them(monkeypatch, flags, extensions, widest):
    machine(monkeypatch, "x86_64", flags, extensions)
    assert (vector_flags() or (None,))[0] == widest


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("aarch64", "Features : fp asimd asimddp", (ARM_DOT_PRODUCT,)),
        ("arm64", "Features : fp asimd", ()),
        ("x86_64", "flags : avx2 fma", ()),
    ],
)
def test_dot_product_is_asked_for_where_it_is(monkeypatch, name, flags, expected):
    machine(monkeypatch, name, flags, NONE)
    assert dot_product_flags() == expected


@pytest.mark.parametrize("found", [lambda mode: None, lambda mode: {}, lambda mode: 1 / 0])
def test_numpy_that_says_nothing_leaves_what_linux_says(monkeypatch, found):
    machine(monkeypatch, "x86_64", "flags : avx2", NONE)
    monkeypatch.setattr(np, "show_config", found)
    assert FAMILY() == "x86-64 AVX2"


def test_this_machine_has_one_and_reports_say_so():
    assert processor_family() == report.environment()["processor_family"]
    assert processor_family().startswith({"amd64": "x86-64", "x86_64": "x86-64"}.get(platform.machine().lower(), ""))
    assert module.processor_family() is processor_family()
