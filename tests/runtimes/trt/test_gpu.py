"""What only a GPU can show: `pytest -m gpu`, or `make gpu-check`. Elsewhere these tests are skipped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.trt_flavors import RTX, load_flavor
from causalrn.errors import NotExecutedError
from causalrn.export.trt.builder import BuildOptions
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes import open_session
from causalrn.runtimes.trt.cuda_device import CudaDevice
from causalrn.runtimes.trt.trt_session import TensorRTSession
from causalrn.workflows.compile import compile_bundle
from tests.builders import relative_error
from tests.runtimes.trt.test_engine import has_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU, its driver and cuda-bindings"),
]

GPU_RELATIVE = 2e-5
"""Of float32 engines against onnxruntime, both a few roundings from the oracle; `verify` judges them exactly."""

SIZES = {"fixed": Sizes(capacities=(8,)), "growing": Sizes(growing=((1, 8, 16), (17, 30, 40))), "linear": Sizes()}


@pytest.fixture(scope="module")
def sources(bundles, fixed_bundle):
    return {"fixed": fixed_bundle, "growing": bundles["exact"], "linear": bundles["linear"], "plain": bundles["plain"]}


@pytest.fixture
def compiled(sources, tmp_path):
    """A function that compiles a kind of bundle; skipped where TensorRT-RTX is missing or does not know this GPU."""
    if not RTX.is_installed:
        pytest.skip(f"needs TensorRT-RTX: {RTX.install}")

    def _compiled(kind):
        source, folder = Bundle.open(sources[kind]), tmp_path / "engine"
        folder.mkdir()
        compile_bundle(source, folder, load_flavor("rtx"), SIZES.get(kind, Sizes()), BuildOptions())
        try:
            open_session(folder).close()
        except NotExecutedError as error:
            pytest.skip(str(error))
        return folder

    return _compiled


@pytest.mark.parametrize("kind", ["fixed", "growing", "linear", "plain"])
@pytest.mark.parametrize("batch", [1, 3])
def test_rollout_on_the_gpu_equals_onnxruntime(kind, batch, compiled, sources):
    tokens = np.random.default_rng(1).integers(0, 29, (batch, 40))
    with open_session(compiled(kind)) as engine, open_session(sources[kind]) as expected:
        for session in (engine, expected):
            session.reset(batch)
        for part in (tokens[:, :7], *np.split(tokens[:, 7:], 33, axis=1)):
            assert relative_error(engine.prefill(part), expected.prefill(part)) <= GPU_RELATIVE
        one, two = engine.snapshot(), expected.snapshot()
        for name, value in two.tensors.items():
            assert relative_error(one.tensors[name], value) <= GPU_RELATIVE
        engine.restore(dataclasses.replace(two, owner=engine.owner))


def test_steps_are_replayed_and_equal_those_that_are_not(compiled):
    path = compiled("fixed")
    with open_session(path) as graph, open_session(path, no_cuda_graph=True) as plain:
        for token in range(20):
            np.testing.assert_array_equal(graph.step([token]), plain.step([token]))
        assert isinstance(graph, TensorRTSession)
        assert isinstance(plain, TensorRTSession)
        assert graph.replays > 0
        assert plain.replays == 0


def test_runtime_cache_is_written_and_read_again(compiled, tmp_path):
    path, cache = compiled("linear"), tmp_path / "cache"
    logits = []
    for _ in range(2):
        with open_session(path, runtime_cache=cache) as session:
            logits.append(session.step([3]))
        assert cache.stat().st_size > 0
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("kind", ["fixed", "growing", "linear"])
def test_engines_pass_verify(kind, compiled, call):
    code, out, err = call("verify", compiled(kind), "--samples", 50)
    assert code == 0, out + err


def test_device_copies_in_two_dimensions_and_replays():
    device = CudaDevice()
    try:
        source, target = device.allocate(1024), device.allocate(1024)
        given, taken = device.host_array([256], np.float32), device.host_array([256], np.float32)
        given[:] = np.arange(256)
        device.to_device(source, given)
        device.zero(target, 1024, 1024, 1)
        device.begin_capture()
        device.copy(target, 256, source, 64, 64, 4)  # 4 stretches of 16 numbers to the beginnings of 4 stretches of 64
        graph = device.end_capture()
        device.launch(graph)
        device.to_host(taken, target)
        device.synchronize()
        expected = np.zeros((4, 64), np.float32)
        expected[:, :16] = np.arange(64).reshape(4, 16)
        np.testing.assert_array_equal(taken.reshape(4, 64), expected)
        device.zero(target, 256, 32, 4)
        device.to_host(taken, target)
        device.synchronize()
        assert not taken.reshape(4, 64)[:, :8].any()
        device.free_graph(graph)
        for array in (given, taken):
            device.free_host(array)
        for address in (source, target):
            device.free(address)
        assert device.name
        assert float(device.compute_capability) >= 5
        assert device.driver_version >= 12000
    finally:
        device.close()
