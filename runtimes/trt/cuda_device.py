"""The GPU's memory and one stream of it, by CUDA's runtime API. Sizes in bytes; addresses are integers."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from causalrn.errors import DriverMissingError, GpuFailureError, NotExecutedError
from causalrn.runtimes.snapshot import Array

_NO_DRIVER = {35: "no NVIDIA driver, or one that is too old", 100: "no NVIDIA GPU", 3: "CUDA does not start"}
_OUT_OF_MEMORY = 2


class Device(Protocol):
    """What a session needs of a GPU. All copies and launches are queued on one stream, in order."""

    stream: int

    @property
    def name(self) -> str: ...
    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array: ...
    def free_host(self, array: Array) -> None: ...
    def zero(self, address: int, pitch: int, width: int, height: int) -> None: ...
    def to_device(self, address: int, array: Array) -> None: ...
    def to_host(self, array: Array, address: int) -> None: ...
    def copy(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int) -> None: ...
    def synchronize(self) -> None: ...
    def begin_capture(self) -> None: ...
    def end_capture(self) -> Any: ...
    def launch(self, graph: Any) -> None: ...
    def free_graph(self, graph: Any) -> None: ...
    def close(self) -> None: ...


class DeviceMemory:
    """Memory of a device and page-locked memory of the host, given back together."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._addresses: list[int] = []
        self._arrays: list[Array] = []

    def allocate(self, size: int) -> int:
        """As :meth:`CudaDevice.allocate`."""
        self._addresses.append(self._device.allocate(size))
        return self._addresses[-1]

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """As :meth:`CudaDevice.host_array`."""
        self._arrays.append(self._device.host_array(shape, dtype))
        return self._arrays[-1]

    def release(self) -> None:
        """Give everything back, once nothing that is queued uses it."""
        addresses, self._addresses = self._addresses, []
        arrays, self._arrays = self._arrays, []
        self._device.synchronize()
        for address in addresses:
            self._device.free(address)
        for array in arrays:
            self._device.free_host(array)


@contextlib.contextmanager
def allocating(device: Device) -> Iterator[DeviceMemory]:
    """A context for allocating several pieces: all of them, or none if something fails."""
    memory = DeviceMemory(device)
    try:
        yield memory
    except BaseException:
        memory.release()
        raise


class CudaDevice:
    """The current GPU with a stream of its own, which does not wait for the default stream.

    Raises:
        DriverMissingError: there is no GPU, or no driver that is new enough.
        NotExecutedError: cuda-bindings is not installed.
        GpuFailureError: CUDA fails; so do all methods where it does.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
            raise NotExecutedError("this needs cuda-bindings, which is not installed: pip install cuda-bindings")
        from cuda.bindings import runtime

        self._api = runtime
        code, count = runtime.cudaGetDeviceCount()
        if int(code) in _NO_DRIVER or (int(code) == 0 and not count):
            why = _NO_DRIVER.get(int(code), _NO_DRIVER[100])
            raise DriverMissingError(
                f"{why} (CUDA error {int(code)}): run this on a machine with an NVIDIA GPU and a current driver"
            )
        self._call("cudaGetDeviceCount", code)
        self._stream = self._do("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    @property
    def name(self) -> str:
        """The GPU as NVIDIA calls it."""
        return bytes(self._properties.name).split(b"\0")[0].decode()

    @property
    def compute_capability(self) -> str:
        """E.g. "8.9"."""
        return f"{self._properties.major}.{self._properties.minor}"

    @property
    def driver_version(self) -> int:
        """The newest CUDA version that the driver supports, e.g. 13000."""
        return int(self._do("cudaDriverGetVersion"))

    @property
    def _properties(self) -> Any:
        return self._do("cudaGetDeviceProperties", self._do("cudaGetDevice"))

    def allocate(self, size: int) -> int:
        """Device memory, 256-byte aligned; its content is not set."""
        return int(self._do("cudaMalloc", max(size, 1)))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._do("cudaFree", address)

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Page-locked memory of the host: only from and to such can copies run by themselves."""
        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        buffer = (ctypes.c_byte * size).from_address(int(self._do("cudaMallocHost", size)))
        return np.ctypeslib.as_array(buffer).view(dtype).reshape(shape)

    def free_host(self, array: Array) -> None:
        """Give memory of :meth:`host_array` back."""
        self._do("cudaFreeHost", array.ctypes.data)

    def zero(self, address: int, pitch: int, width: int, height: int) -> None:
        """Set `height` stretches of `width` bytes to zero, whose beginnings are `pitch` bytes apart."""
        if width and height:
            self._do("cudaMemset2DAsync", address, pitch, 0, width, height, self._stream)

    def to_device(self, address: int, array: Array) -> None:
        """Copy an array of the host to the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def to_host(self, array: Array, address: int) -> None:
        """Copy from the device into an array of the host; it is there after :meth:`synchronize`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def copy(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int) -> None:
        """Copy `height` stretches of `width` bytes within the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._do("cudaMemcpy2DAsync", target, target_pitch, source, source_pitch, width, height, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""
        self._do("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """From here on, what is queued is recorded instead of run."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """What was recorded, ready to :meth:`launch`."""
        graph = self._do("cudaStreamEndCapture", self._stream)
        try:
            return self._do("cudaGraphInstantiate", graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Queue everything that was recorded."""
        self._do("cudaGraphLaunch", graph, self._stream)

    def free_graph(self, graph: Any) -> None:
        """Give what was recorded back; where it is queued, once it has run."""
        self._do("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Wait, and give the stream back."""
        self.synchronize()
        self._do("cudaStreamDestroy", self._stream)

    def _do(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._api, name)(*arguments)
        self._call(name, code)
        return values[0] if values else None

    def _call(self, name: str, code: Any) -> None:
        if not int(code):
            return
        _, text = self._api.cudaGetErrorString(code)
        remedy = "free some, or run fewer sequences" if int(code) == _OUT_OF_MEMORY else "see `doctor`"
        raise GpuFailureError(f"{name} failed on the GPU with CUDA error {int(code)} ({text.decode()}): {remedy}")
