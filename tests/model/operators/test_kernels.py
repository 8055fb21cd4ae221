"""Which kernel computes the sums over pairs: the table, by device and dtype, and what is said where one is missing."""

import subprocess
import sys

import pytest
import torch

from causalrn.errors import FallbackWarning, RuntimeUnavailableError
from causalrn.model.operators import kernels, triton_kernels
from causalrn.model.operators.functions import KERNEL_CHOICES
from causalrn.model.operators.kernels import KERNELS, choose_kernel, using_kernel
from causalrn.model.operators.triton_kernels import Blocks
from tests.builders import ROOT


@pytest.fixture
def anew(monkeypatch):
    """Nothing has been said or tried."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "_noted", set())
    for name in ("_passes", "_why_unavailable"):
        monkeypatch.setattr(triton_kernels, name, getattr(triton_kernels, name).__wrapped__)


def _pretend_gpu(monkeypatch, capability=(8, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def test_every_kernel_can_be_asked_for():
    assert {"auto", *KERNELS} == set(KERNEL_CHOICES)


def test_last_kernel_always_works():
    assert list(KERNELS)[-1] == "tiles"
    assert KERNELS["tiles"].why_not("meta", torch.float16) == ""


def test_auto_leaves_what_has_not_run_on_a_gpu(anew, monkeypatch):
    monkeypatch.setattr(triton_kernels, "why_not", lambda device, dtype: "")
    assert choose_kernel("cuda", torch.float32) == "tiles"
    with using_kernel("triton"):
        assert choose_kernel("cuda", torch.float32) == "triton"


def test_auto_takes_triton_on_a_gpu_for_what_it_can_read(anew, monkeypatch):
    monkeypatch.setattr(triton_kernels, "AUTOMATIC", True)
    monkeypatch.setattr(triton_kernels, "why_not", lambda device, dtype: "")
    assert [choose_kernel("cuda", dtype) for dtype in triton_kernels.DTYPES] == ["triton"] * 3
    assert choose_kernel("cuda", torch.float64) == "tiles", "without a note"
    assert choose_kernel("cpu", torch.bfloat16) == "tiles"


@pytest.mark.parametrize(
    ("capability", "packages", "reason"),
    [
        ((7, 5), {}, "it needs a GPU of compute capability 8.0 or more"),
        ((8, 0), {"causalrn.model.operators.triton_passes": None}, "Triton cannot be imported.*: pip install triton"),
    ],
)
def test_without_triton_tiles_are_used_and_one_note_says_so(anew, monkeypatch, capability, packages, reason):
    _pretend_gpu(monkeypatch, capability)
    monkeypatch.setattr(triton_kernels, "AUTOMATIC", True)
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)  # None: it cannot be imported
    with pytest.warns(FallbackWarning, match=rf"PyTorch's tiles \({reason}\)"):
        assert choose_kernel("cuda", torch.float32) == "tiles"
    assert choose_kernel("cuda", torch.bfloat16) == "tiles", "said once"
    with using_kernel("triton"), pytest.raises(RuntimeUnavailableError, match=f"^kernel triton: {reason}"):
        choose_kernel("cuda", torch.float32)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("triton", "cpu", torch.float32),
        ("triton", "cuda", torch.float64),
        ("c", "cuda", torch.float32),
        ("c", "cpu", torch.float16),
    ],
)
def test_kernel_that_was_asked_for_is_used_or_refused(anew, name, device, dtype):
    asked = f"not {str(dtype).removeprefix('torch.')} on {device}"
    with using_kernel(name), pytest.raises(RuntimeUnavailableError, match=f"^kernel {name}: it is for .*, {asked}$"):
        choose_kernel(device, dtype)


def test_nobody_else_pays_for_importing_triton():
    program = """
import sys
import torch
import causalrn.training.loop
from causalrn.model.operators.kernels import choose_kernel
choose_kernel("cpu", torch.float32)
sys.exit("triton" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
@pytest.mark.parametrize("width", [1, 2, 5, 64, 100, 192, 520, 768, 3072, triton_kernels.MOST_WIDTH])
def test_blocks_hold_a_row_and_fit_registers(width, rows, backward):
    blocks = Blocks.of(width, backward)
    assert blocks.channels * (blocks.parts - 1) < width <= blocks.channels * blocks.parts
    owned, met = blocks.sides(rows)
    assert owned * met == blocks.pairs
    assert owned < 2 * rows
    assert all(x & (x - 1) == 0 for x in (blocks.channels, owned, met, blocks.warps)), "Triton's blocks"
    assert blocks.pairs == 1 or blocks.pairs * blocks.channels * blocks.parts <= 48 * 32 * blocks.warps
