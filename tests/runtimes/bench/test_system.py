"""Memory as the system counts it, and that states take the state contract's size and no more."""

import subprocess
import sys

import numpy as np
import psutil
import pytest

from causalrn.compiling.processor import usable_processors
from causalrn.model.config import CausalRNConfig
from causalrn.model.state import derive_state
from causalrn.runtimes.bench import system
from causalrn.runtimes.bench.system import (
    forget_peak,
    installed_bytes,
    peak_bytes,
    resident_bytes,
)
from causalrn.runtimes.state_buffers import StateBuffers, aligned_zeros

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MEGABYTE, PAGE_BYTES = 1 << 20, 4096


@needs_proc
def test_memory_that_is_touched_counts():
    before = resident_bytes()
    array = aligned_zeros((8 * MEGABYTE,), np.uint8)
    assert resident_bytes() - before < MEGABYTE
    array[: 4 * MEGABYTE] = 1
    assert resident_bytes() - before == pytest.approx(4 * MEGABYTE, rel=0.05)


@needs_proc
def test_peak_is_forgotten():
    forget_peak()
    base = peak_bytes()
    aligned_zeros((32 * MEGABYTE,), np.uint8)[...] = 1
    assert peak_bytes() - base > 30 * MEGABYTE
    forget_peak()
    assert peak_bytes() - base < 8 * MEGABYTE


@needs_proc
def test_pools_take_their_rows_however_often_they_began_anew():
    """`numpy.zeros` would take the whole capacity once memory is used again: 48 MB here, for 500 rows of 4,000."""
    spec = derive_state(CausalRNConfig(29, 64, 256, 12, 4000, readout="exact"))
    buffers = StateBuffers(spec)
    rows = {tensor.name: np.ones((500, 1, 256), np.float32) for tensor in spec.tensors}
    for _ in range(4):
        buffers.load(rows, 500, 1)
        buffers.clear(1)
    before = resident_bytes()
    buffers.load(rows, 500, 1)
    pages = len(spec.tensors) * PAGE_BYTES
    assert spec.size_bytes(500) <= resident_bytes() - before + pages <= 1.05 * spec.size_bytes(500) + 2 * pages


def test_children_count():
    before = resident_bytes()
    code = "import sys; held = bytearray(b'x') * (32 << 20); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert resident_bytes() - before > 32 * MEGABYTE
        child.stdin.close()
    assert resident_bytes() - before < 32 * MEGABYTE


def test_without_proc_memory_counts_and_there_is_no_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "_PROC", tmp_path)
    before = resident_bytes()
    array = aligned_zeros((32 * MEGABYTE,), np.uint8)
    array[...] = 1
    assert resident_bytes() - before == pytest.approx(32 * MEGABYTE, abs=4 * MEGABYTE)
    forget_peak()
    assert peak_bytes() is None


def test_machine_has_what_psutil_counts():
    assert installed_bytes() > resident_bytes()
    assert 1 <= usable_processors() <= psutil.cpu_count()
