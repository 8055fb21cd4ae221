"""Memory as the system counts it, and that states take what the contract says and no more."""

import sys

import numpy as np
import pytest

from causalrn.model.config import CausalRNConfig
from causalrn.model.state import derive_state
from causalrn.runtimes.bench.system import forget_peak, peak_bytes, resident_bytes
from causalrn.runtimes.state_buffers import StateBuffers, aligned_zeros

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MEGABYTE, PAGE_BYTES = 1 << 20, 4096


def test_memory_that_is_touched_counts():
    before = resident_bytes()
    array = aligned_zeros((8 * MEGABYTE,), np.uint8)
    assert resident_bytes() - before < MEGABYTE
    array[: 4 * MEGABYTE] = 1
    assert resident_bytes() - before == pytest.approx(4 * MEGABYTE, rel=0.05)


def test_peak_is_forgotten():
    forget_peak()
    base = peak_bytes()
    aligned_zeros((32 * MEGABYTE,), np.uint8)[...] = 1
    assert peak_bytes() - base > 30 * MEGABYTE
    forget_peak()
    assert peak_bytes() - base < 8 * MEGABYTE


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
