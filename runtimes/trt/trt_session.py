"""TensorRT: runs an engine bundle. The state stays on the GPU; tokens go there, logits come back.

Everything is queued on one stream, in this order: position and tokens, the graph, logits; then, once they are known to
be finite, the copy of the new rows from their staging place into the pools.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from causalrn.engine_spec import EngineSpec
from causalrn.errors import BundleError, GpuFailureError, InputError, NotExecutedError
from causalrn.manifest import Bundle
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session import Array, FloatArray, IntArray
from causalrn.runtimes.trt.cuda_device import CudaDevice, Device, DeviceMemory, allocating
from causalrn.runtimes.trt.device_state import DeviceArray, DeviceState
from causalrn.runtimes.trt.engine import Engines

_TOKENS_AT = 32
"""Where tokens begin in what goes to the device, in int64: the position is first, and addresses are aligned."""


class Contexts(Protocol):
    """Where execution contexts come from: :class:`causalrn.runtimes.trt.engine.Engines`."""

    def context(self, graph: str, *, one_shape: bool) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Gpu:
    """A device, and the engines on it."""

    device: Device
    engines: Contexts


class TensorRTSession(CellSession):
    """An engine bundle on an NVIDIA GPU.

    Args:
        bundle: opened, its hashes checked.
        cuda_graph: record a step whose shapes never change, and replay it: one launch instead of one per kernel.
        runtime_cache: a file that keeps kernels compiled on this machine.
        gpu: stands in for the real one in tests.

    Raises:
        NotExecutedError: what is missing here; see :class:`Engines` for its kinds.
        BundleError: the bundle is for another runtime, or an engine is malformed.
    """

    runtime = "tensorrt"

    def __init__(
        self, bundle: Bundle, *, cuda_graph: bool = True, runtime_cache: Path | None = None, gpu: Gpu | None = None
    ) -> None:
        manifest = bundle.manifest
        if manifest.engine is None:
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for TensorRT: `compile` it first")
        self._engine: EngineSpec = manifest.engine
        self._engines: Contexts = Engines(bundle, runtime_cache) if gpu is None else gpu.engines
        self._device: Device = CudaDevice() if gpu is None else gpu.device
        try:
            self._state = DeviceState(manifest.state, self._device, manifest.prefill_chunk)
        except GpuFailureError as error:
            self._device.close()
            raise NotExecutedError(f"{bundle.path}: no room for its state: {error}") from None
        self._exchange = _Exchange(self._device, manifest.prefill_chunk, manifest.card.config.vocabulary)
        self._calls: dict[tuple[str, int, int], _Call] = {}  # by graph, profile and side of the state
        self._generation: tuple[int, int] | None = None
        self._records, self._closed = cuda_graph, False
        chunk = manifest.prefill_chunk
        super().__init__(manifest.card, manifest.state, bundle.sha256, prefill_chunk=chunk, store=self._state)
        self.max_batch = manifest.engine.max_batch

    @property
    def gpu(self) -> str:
        """Name of the GPU."""
        return self._device.name

    @property
    def replays(self) -> int:
        """Steps that replayed a CUDA graph, since addresses last changed."""
        return sum(call.replays for call in self._calls.values())

    def _chunk_at(self, position: int) -> int:
        return self.prefill_chunk

    def _run(
        self, tokens: IntArray, position: int, state: Sequence[DeviceArray]
    ) -> tuple[FloatArray, Sequence[DeviceArray]]:
        batch, time = tokens.shape
        graph, pool = ("step" if time == 1 else "prefill"), self.spec.pool
        needed = {"growing": state[0].shape[0], "fixed": position + (time == 1)}.get(pool, 0)
        chosen = self._engine.choose(graph, batch=batch, time=time, rows=needed, exact=pool == "growing")
        if chosen is None:
            raise InputError(
                f"the {graph} was not compiled for {batch} sequences, {time} tokens and {needed} rows: compile the "
                "bundle again with other profiles"
            )
        index, rows = chosen
        past = [view.first(rows) for view in state] if self.spec.has_pool else state
        self._exchange.reserve(batch)
        inputs = {"tokens": self._exchange.tokens(batch, time), "position": self._exchange.position}
        inputs |= {tensor.input_name: view for tensor, view in zip(self.spec.tensors, past, strict=True)}
        outputs = self._state.outputs(time)
        places = {tensor.output_name: place for tensor, place in zip(self.spec.tensors, outputs, strict=True)}
        places["logits"] = self._exchange.logits(batch, time)
        one_shape = time == 1 and pool != "growing"
        call = self._call(graph, index, one_shape=one_shape)
        self._exchange.send(tokens, position)
        call.run(inputs, places, record=one_shape and self._records)
        return self._exchange.receive(batch, time), outputs

    def _call(self, graph: str, index: int, *, one_shape: bool) -> _Call:
        generation = self._state.generation, self._exchange.generation
        if generation != self._generation:
            self._forget_calls()  # their addresses are void
            self._generation = generation
        # what is recorded holds addresses: each side of the state has a context of its own
        key = graph, index, self._state.side if one_shape and self._records else 0
        if key not in self._calls:
            context = self._engines.context(graph, one_shape=one_shape)
            self._calls[key] = _Call(context, index, self._device)
        return self._calls[key]

    def _forget_calls(self) -> None:
        for call in self._calls.values():
            call.forget()
        self._calls.clear()

    def close(self) -> None:
        """Write the runtime cache and release everything on the device; a second call does nothing.

        A GPU that has failed releases nothing any more, and has been reported by what failed.
        """
        if self._closed:
            return
        self._closed = True
        device = self._device
        for step in (device.synchronize, self._forget_calls, self._state.release, self._exchange.release, device.close):
            with contextlib.suppress(GpuFailureError):
                step()
        self._engines.close()


class _Call:
    """One execution context: places and shapes that are set once and again only if they change, and its CUDA graph."""

    def __init__(self, context: Any, profile: int, device: Device) -> None:
        self.replays = 0
        self._context, self._device = context, device
        self._known: dict[str, DeviceArray] = {}
        self._recorded: Any = None
        self._ran = False
        engine = context.engine
        self._names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if not context.set_optimization_profile_async(profile, device.stream):
            raise GpuFailureError(f"TensorRT refused the engine's profile {profile}: compile the bundle again")

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, record: bool) -> None:
        """Queue the graph once; with `record` from the third time on by replaying what was recorded the second time."""
        self._set(inputs, shaped=True)
        self._set(outputs, shaped=False)
        if self._recorded is not None:
            self._device.launch(self._recorded)
            self.replays += 1
        elif record and self._ran and self._may_record():
            self._recorded = self._record()
            self._device.launch(self._recorded)
        else:
            self._execute()
            self._ran = True

    def _may_record(self) -> bool:
        """TensorRT-RTX can tell; with TensorRT a step that has run once may be recorded."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._device.stream))

    def _record(self) -> Any:
        self._device.begin_capture()
        try:
            self._execute()
        except BaseException:
            with contextlib.suppress(GpuFailureError):  # what was recorded is void
                self._device.free_graph(self._device.end_capture())
            raise
        return self._device.end_capture()

    def _set(self, places: Mapping[str, DeviceArray], *, shaped: bool) -> None:
        for name, place in places.items():
            known = self._known.get(name)
            if place == known or name not in self._names:
                continue
            done = True
            if shaped and (known is None or place.shape != known.shape):
                done = self._context.set_input_shape(name, place.shape)
                self.forget()
            if known is None or place.address != known.address:
                done = done and self._context.set_tensor_address(name, place.address)
                self.forget()
            if not done:
                raise GpuFailureError(f"TensorRT refused {name} of shape {list(place.shape)}: compile the bundle again")
            self._known[name] = place

    def forget(self) -> None:
        """Give up what was recorded."""
        if self._recorded is not None:
            self._device.free_graph(self._recorded)
        self._recorded, self._ran = None, False

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise GpuFailureError("TensorRT could not run the engine: see `doctor`, and the GPU's free memory")


class _Exchange:
    """What goes to the device and comes back: position and tokens by one copy, logits by another.

    Attributes:
        generation: counts how often memory was allocated: earlier addresses are void.
    """

    def __init__(self, device: Device, chunk: int, vocabulary: int) -> None:
        self.generation = 0
        self._device, self._chunk, self._vocabulary = device, chunk, vocabulary
        self._memory = DeviceMemory(device)
        self._room = self._input = self._output = 0
        self._given: Array = np.empty(0, np.int64)
        self._logits: Array = np.empty(0, np.float32)

    def reserve(self, batch: int) -> None:
        """Make room for so many sequences; the earlier memory is given back when the new one is there."""
        if batch <= self._room:
            return
        count = batch * self._chunk
        with allocating(self._device) as memory:
            given = memory.host_array([_TOKENS_AT + count], np.int64)
            logits = memory.host_array([count * self._vocabulary], np.float32)
            places = memory.allocate(given.nbytes), memory.allocate(logits.nbytes)
        before, self._memory = self._memory, memory
        self._given, self._logits, (self._input, self._output) = given, logits, places
        self._room, self.generation = batch, self.generation + 1
        before.release()

    @property
    def position(self) -> DeviceArray:
        """Where graphs read the position."""
        return DeviceArray(self._input, ())

    def tokens(self, batch: int, time: int) -> DeviceArray:
        """Where graphs read tokens."""
        return DeviceArray(self._input + _TOKENS_AT * self._given.itemsize, (batch, time))

    def logits(self, batch: int, time: int) -> DeviceArray:
        """Where graphs write logits."""
        return DeviceArray(self._output, (batch, time, self._vocabulary))

    def send(self, tokens: IntArray, position: int) -> None:
        """Queue the copy of position and tokens.

        What was sent before has arrived, for its logits have come back; or its call failed, and nobody reads it.
        """
        end = _TOKENS_AT + tokens.size
        self._given[0], self._given[_TOKENS_AT:end] = position, tokens.reshape(-1)
        self._device.to_device(self._input, self._given[:end])

    def receive(self, batch: int, time: int) -> FloatArray:
        """Wait for the logits, [B, T, V]."""
        logits = self._logits[: batch * time * self._vocabulary]
        self._device.to_host(logits, self._output)
        self._device.synchronize()
        return logits.reshape(batch, time, self._vocabulary).copy()

    def release(self) -> None:
        """Give all memory back."""
        self._memory.release()
        self._room = 0
