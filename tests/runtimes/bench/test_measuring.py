"""Micro-kernels do what they are timed for, in every instruction set that this machine has."""

import ctypes

import numpy as np
import pytest

from causalrn.runtimes.bench.measuring import ISAS, Kernels, _library, measure_machine
from causalrn.runtimes.bench.ort_measuring import _readout, _readout_s, _rest, measure_onnxruntime
from tests.c_tools import HAS_C_COMPILER, needs_c_compiler


def available():
    if not HAS_C_COMPILER:
        return []
    return list(ISAS)[: _library("portable").best_isa() + 1]


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


@needs_c_compiler
@pytest.mark.parametrize("isa", ISAS)
def test_kernels_compute(isa):
    if isa not in available():
        pytest.skip(f"this processor has no {isa}")
    library, rng, times = _library(isa), np.random.default_rng(0), ctypes.c_size_t(3)
    values = rng.random(1024, np.float32)
    total = library.read_floats(address(values), ctypes.c_size_t(1024), times)
    assert total == pytest.approx(3 * values.sum(), rel=1e-5)
    rows, sums = rng.normal(0, 1, (16, 192)).astype(np.float32), np.zeros(192, np.float32)
    library.exps(address(sums), address(rows), times)
    assert np.allclose(sums, 3 * np.exp2((rows + 0.25) * 0.5).sum(0), rtol=1e-5)
    factors = np.arange(1, 17)[:, None]
    expected = 3 * float((factors * rows.astype(np.float64)).sum())
    assert library.products(address(rows), times) == pytest.approx(expected, abs=0.05)
    weights = rng.integers(-127, 128, (16, 192)).astype(np.int8)
    assert library.int8_products(address(weights), times) == pytest.approx(3 * int((factors * weights).sum()), rel=1e-4)


@needs_c_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_rates_are_those_of_a_processor(threads):
    machine = Kernels(threads).rates([1 << 16, 1 << 20])
    assert machine.isa == available()[-1]
    assert machine.threads == threads
    assert [size for size, _ in machine.bytes_per_s] == [1 << 16, 1 << 20]
    for rate in (machine.exps_per_s, machine.products_per_s, machine.int8_products_per_s):
        assert 1e6 < rate < 1e13


@needs_c_compiler
def test_machine_is_measured_whole():
    machine = measure_machine()
    assert machine.memory_bytes is None or machine.memory_bytes > 1 << 28
    assert machine.onnxruntime is not None
    assert len(machine.bytes_per_s) >= 8


def test_readout_graph_is_the_exact_readout():
    import onnxruntime

    rng = np.random.default_rng(0)
    pool, terms = rng.normal(0, 1, (7, 192)).astype(np.float32), rng.normal(0, 1, (2, 192)).astype(np.float32)
    feed = {"pool": pool, "terms": terms, "which": np.ones((7, 2), np.float32), "counts": np.ones((1, 7), np.float32)}
    (found,) = onnxruntime.InferenceSession(_readout("SimplifiedLayerNormalization", 21)).run(None, feed)
    pairs = (pool + terms.sum(0)).astype(np.float64)
    expected = np.exp(pairs / np.sqrt((pairs**2).mean(1, keepdims=True))).sum(0)
    assert np.allclose(found[0], expected, rtol=1e-4)


def test_what_is_left_of_a_time_is_never_nothing():
    """On a busy machine the parts may take longer by themselves than the whole did."""
    assert _rest(3.0, 1.0) == 2.0
    assert _rest(3.0, 2.9) == pytest.approx(0.3)
    assert _rest(3.0, 5.0) == pytest.approx(0.3)


def test_onnxruntime_rates_are_plausible():
    rates = measure_onnxruntime()
    assert 1e-10 < rates.node_s < 1e-2
    assert all(1e7 < rate < 1e13 for _, rate in rates.weight_bytes_per_s)
    assert all(1e6 < rate < 1e12 for _, rate in rates.pairs_per_s)
    assert _readout_s(64, 1) > 0
