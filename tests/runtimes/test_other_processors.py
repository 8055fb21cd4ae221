"""Bundles of every scheme on processors that this machine is not: QEMU runs our Python as Haswell (AVX2) and Nehalem.

They have no VNNI: there onnxruntime adds pairs of u8 x s8 products in 16 bits, and cuts off what does not fit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
from onnxruntime import quantization

from causalrn.bundle.bundle_folder import Bundle
from causalrn.calibration import activations
from causalrn.calibration.schemes import write_quantized
from causalrn.compiling.processor import processor_family
from causalrn.export.c99.c99_exporter import COptions
from causalrn.workflows.export_targets import export_c_bundle
from tests.builders import ROOT
from tests.c_tools import HAS_C_COMPILER, needs
from tests.calibration.test_schemes import scheme_for

pytestmark = [
    needs("qemu-x86_64", packages="qemu-user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator runs the Python of an x86-64 machine"),
]
FAMILIES = {"Haswell": "x86-64 AVX2", "Nehalem": "x86-64 SSE"}
SATURATING = ("x86-64 AVX2", "x86-64 AVX-512")
"""Families without VNNI, whose products of 8-bit weights saturate; where bundles are recorded on one, it is no news."""
SKIPPED = {"Haswell": (), "Nehalem": ("w8-qdq", "w8-pool8", "fp16", "C w8a8-dynamic")}
"""To save time: what differs on this processor are the products of integers."""
SCHEMES = ("w8", "w8-qdq", "w4", "w8a8-dynamic", "w8a8", "fp16", "w8-pool8")
EIGHT_BITS = "w8a8-dynamic of 8 bits"


@pytest.fixture(scope="module")
def folder(share, bundles, runs):
    """Bundles by scheme, in float32 too, and C's; and one with weights of 8 bits, which saturates."""

    def fill(folder):
        source = Bundle.open(bundles["exact"])
        for name in SCHEMES:
            (folder / name).mkdir()
            write_quantized(source, folder / name, scheme_for(source, name))
        with pytest.MonkeyPatch.context() as patch:
            quantizer = quantization.quantize_dynamic
            full = lambda *given, **options: quantizer(*given, **(options | {"reduce_range": False}))  # noqa: E731
            patch.setattr(activations, "quantize_dynamic", full)
            (folder / EIGHT_BITS).mkdir()
            write_quantized(source, folder / EIGHT_BITS, scheme_for(source, "w8a8-dynamic"))
        (folder / "float32").symlink_to(source.path)
        for name in ("float32", "w8a8-dynamic") if HAS_C_COMPILER else ():
            export_c_bundle(runs["exact"], folder / f"C {name}", COptions(scheme=name))

    return share("other-processors", fill)


@pytest.fixture(scope="module", params=FAMILIES)
def found(request, folder):
    """The processor's name, and what each bundle gave there."""
    names = sorted({path.name for path in folder.iterdir()} - set(SKIPPED[request.param]))
    command = ["qemu-x86_64", "-cpu", request.param, sys.executable, str(ROOT / "benchmarks" / "emulated_check.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *names], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return request.param, {row["bundle"]: row for row in map(json.loads, result.stdout.splitlines())}


@pytest.mark.cases(0)
def test_every_scheme_repeats_what_was_recorded_here(found):
    processor, rows = found
    assert {"float32", "w8", "w4", "w8a8-dynamic", "w8a8"} < set(rows)
    for name, row in rows.items():
        assert row["processor_family"] == FAMILIES[processor]
        differs = (FAMILIES[processor] in SATURATING) != (processor_family() in SATURATING)
        assert row["passed"] != (name == EIGHT_BITS and differs), (name, row)
    assert rows["float32"]["recorded_difference"] < 1e-6


@pytest.mark.cases(0)
def test_c_bundles_give_the_same_bits_with_avx2(found):
    processor, rows = found
    differences = {name: row["recorded_difference"] for name, row in rows.items() if name.startswith("C ")}
    if not differences:
        pytest.skip("needs a C compiler: install gcc or clang")
    assert processor == "Nehalem" or differences == {"C float32": 0.0, "C w8a8-dynamic": 0.0}
    assert differences["C float32"] < 1e-6


@pytest.mark.cases(0)
def test_the_check_names_both_families(found):
    processor, rows = found
    notes = [note for note in rows["w8a8"]["notes"] if "another family" in note]
    assert len(notes) == (FAMILIES[processor] != processor_family())
    assert all(FAMILIES[processor] in note and processor_family() in note for note in notes)
