"""A GPU and engines that run the same ONNX files through onnxruntime, at the same addresses and in the same order.

It is stricter than a real one: nothing that is queued runs before somebody waits for it, fresh memory is NaN, every
access is checked against what was allocated, and a context keeps to its profiles.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnxruntime

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.trt_flavors import RTX, TensorRT
from causalrn.errors import GpuFailureError
from causalrn.export.trt import engine_writer
from causalrn.export.trt.builder import BuildOptions, Built
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes.trt import trt_session
from causalrn.runtimes.trt.trt_session import Gpu, TensorRTSession
from causalrn.workflows.compile import compile_bundle

_POISON = 0xFF  # float32, float16 of such bytes are NaN
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
}


class FakeDevice:
    """Device memory is the host's; the stream is a list of what has yet to be done."""

    stream, name = 7, "fake"

    def __init__(self):
        self.memory: dict[int, np.ndarray] = {}
        self.sizes: dict[int, int] = {}
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.counts: Counter[str] = Counter()
        self.closed = False
        self.room: int | None = None

    def allocate(self, size):
        self.counts["allocate"] += 1
        if self.room is not None and sum(self.sizes.values()) + size > self.room:
            raise GpuFailureError("out of memory")
        block = np.full(size + 256, _POISON, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.memory[address] = block
        self.sizes[address] = size
        return address

    def free(self, address):
        assert not self.queue, "memory is given back while it may be in use"
        del self.memory[address], self.sizes[address]

    def host_array(self, shape, dtype):
        self.counts["host"] += 1
        return np.full(shape, -1, dtype)

    def free_host(self, array):
        self.counts["host"] -= 1

    def at(self, address, size):
        """Bytes of device memory."""
        base = max((start for start in self.memory if start <= address), default=None)
        assert base is not None, "below all that was allocated"
        assert address + size <= base + self.sizes[base], "outside of what was allocated"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def put(self, kind, operation):
        self.counts[kind] += 1
        (self.queue if self.captured is None else self.captured).append(operation)

    def zero(self, address, pitch, width, height):
        assert width <= pitch

        def operation():
            for index in range(height):
                self.at(address + index * pitch, width)[:] = 0

        self.put("zero", operation)

    def to_device(self, address, array):
        assert array.flags.c_contiguous

        def operation():
            self.at(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        self.put("to_device", operation)

    def to_host(self, array, address):
        assert array.flags.c_contiguous

        def operation():
            array.reshape(-1).view(np.uint8)[:] = self.at(address, array.nbytes)

        self.put("to_host", operation)

    def copy(self, target, target_pitch, source, source_pitch, width, height):
        assert width <= min(target_pitch, source_pitch)

        def operation():
            for index in range(height):
                self.at(target + index * target_pitch, width)[:] = self.at(source + index * source_pitch, width)

        self.put("copy", operation)

    def synchronize(self):
        assert self.captured is None, "a wait cannot be recorded"
        self.counts["synchronize"] += 1
        queue, self.queue = self.queue, []
        for operation in queue:
            operation()

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        recorded, self.captured = self.captured, None
        self.counts["graphs"] += 1
        return recorded

    def launch(self, graph):
        self.counts["launch"] += 1
        self.queue += graph

    def free_graph(self, graph):
        self.counts["graphs"] -= 1

    def close(self):
        self.synchronize()
        self.closed = True


class FakeContext:
    """An execution context as TensorRT's: shapes and addresses are those at the time of the call."""

    fails = False

    def __init__(self, path, profiles, spec, device):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.inputs = {value.name: _DTYPES[value.type] for value in inputs}
        self.outputs = {value.name: _DTYPES[value.type] for value in outputs}
        self.profiles, self.spec, self.device = profiles, spec, device
        self.profile, self.shapes, self.addresses = None, {}, {}
        names = [*self.inputs, *self.outputs]
        self.engine = SimpleNamespace(num_io_tensors=len(names), get_tensor_name=names.__getitem__)
        self.one_shape = False

    def set_optimization_profile_async(self, index, stream):
        assert stream == self.device.stream
        self.profile = self.profiles[index]
        return True

    def set_input_shape(self, name, shape):
        low, high = (self.profile.input_shapes(self.spec, which)[name] for which in (0, 2))
        self.shapes[name] = tuple(shape)
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        assert address % 16 == 0, "an address that is not aligned"
        self.addresses[name] = address
        return name in self.inputs or name in self.outputs

    def is_stream_capturable(self, stream):
        return True

    def execute_async_v3(self, stream):
        assert stream == self.device.stream
        assert self.addresses.keys() == {*self.inputs, *self.outputs}
        if self.fails:
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def operation():
            feed = {}
            for name, dtype in self.inputs.items():
                size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
                feed[name] = self.device.at(addresses[name], size).copy().view(dtype).reshape(shapes[name])
            results = self.session.run(list(self.outputs), feed)
            for name, value in zip(self.outputs, results, strict=True):
                assert value.dtype == self.outputs[name]
                self.device.at(addresses[name], value.nbytes)[:] = value.reshape(-1).view(np.uint8)

        self.device.put("execute", operation)
        return True


class FakeEngines:
    """Contexts over the ONNX files that an engine bundle was compiled from."""

    def __init__(self, source: Bundle, compiled: Bundle, device: FakeDevice):
        self.source, self.compiled, self.device = source, compiled, device
        self.contexts: list[FakeContext] = []
        self.closed = 0

    def context(self, graph, *, one_shape):
        path = self.source.file(self.source.manifest.graphs[graph].file)
        profiles = self.compiled.manifest.engine.profiles[graph]
        self.contexts.append(FakeContext(path, profiles, self.compiled.manifest.state, self.device))
        self.contexts[-1].one_shape = one_shape
        return self.contexts[-1]

    def close(self):
        self.closed += 1


def fake_compile(source: Bundle, folder, monkeypatch, sizes: Sizes | None = None) -> Bundle:
    """An engine bundle as `compile` writes it, except for the engines themselves."""
    folder.mkdir(exist_ok=True)
    tensorrt = TensorRT(RTX, SimpleNamespace(__version__="1.7.0.0"), None)
    with monkeypatch.context() as patch:
        patch.setattr(engine_writer, "build_engine", lambda *arguments: Built(b"no engine"))
        return compile_bundle(source, folder, tensorrt, sizes or Sizes(), BuildOptions()).bundle


def pretend_gpu(source: Bundle, monkeypatch) -> list[FakeEngines]:
    """Have every session over engines compiled from `source` run on a fake GPU of its own; gives their engines."""
    made: list[FakeEngines] = []

    def engines(compiled, runtime_cache):
        made.append(FakeEngines(source, compiled, FakeDevice()))
        return made[-1]

    monkeypatch.setattr(trt_session, "Engines", engines)
    monkeypatch.setattr(trt_session, "CudaDevice", lambda: made[-1].device)
    return made


def fake_session(source: Bundle, compiled: Bundle, **options) -> TensorRTSession:
    """A session over such a bundle; its device and engines are `session._device` and `session._engines`."""
    device = FakeDevice()
    return TensorRTSession(compiled, gpu=Gpu(device, FakeEngines(source, compiled, device)), **options)
