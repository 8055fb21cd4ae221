"""TensorRT: runs an engine bundle. The state stays on the GPU; tokens go there, logits come back.

Everything is queued on one stream, in this order: position and tokens, the graph, logits; then, once they are known to
be finite, the copy of the new rows from their staging place into the pools.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.engine_spec import EngineSpec
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import BundleError, GpuFailureError, InputError, NotExecutedError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.trt.context_call import ContextCall
from causalrn.runtimes.trt.cuda_device import CudaDevice, Device
from causalrn.runtimes.trt.device_state import DeviceArray, DeviceState
from causalrn.runtimes.trt.engine import Engines
from causalrn.runtimes.trt.host_exchange import HostExchange
from causalrn.training.card import card_of


class Contexts(Protocol):
    """Where execution contexts come from: :class:`causalrn.runtimes.trt.engine.Engines`."""

    def context(self, graph: str, *, one_shape: bool) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Gpu:
    """A device, and the engines on it."""

    device: Device
    engines: Contexts


def _open_device() -> Device:
    try:
        return CudaDevice()
    except GpuFailureError as error:  # nothing was under way yet
        raise NotExecutedError(str(error)) from None


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
        self._device: Device = _open_device() if gpu is None else gpu.device
        try:
            self._state = DeviceState(manifest.state, self._device, manifest.prefill_chunk)
        except GpuFailureError as error:
            self._device.close()
            raise NotExecutedError(f"{bundle.path}: no room for its state: {error}") from None
        self._exchange = HostExchange(self._device, manifest.prefill_chunk, card_of(bundle).config.vocabulary)
        self._calls: dict[tuple[str, int, int], ContextCall] = {}  # by graph, profile and side of the state
        self._generation: tuple[int, int] | None = None
        self._records = cuda_graph
        chunk, origin = manifest.prefill_chunk, StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=chunk, store=self._state)
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
        needed = position + (time == 1) if self.spec.has_pool else 0
        chosen = self._engine.choose(graph, batch=batch, time=time, rows=needed, exact=pool == "growing")
        if chosen is None:
            raise InputError(
                f"the {graph} was not compiled for {batch} sequences, {time} tokens and {needed} rows: compile the "
                "bundle again with other profiles"
            )
        index, rows = chosen
        one_shape = time == 1 and pool != "growing"
        self._exchange.reserve(batch)
        call = self._call(graph, index, one_shape=one_shape)
        setting = batch, time, rows, self._state.side
        if setting != call.setting:
            self._set_up(call, setting, state)
        self._exchange.send(tokens, position)
        call.run(record=one_shape and self._records)
        return self._exchange.receive(batch, time), call.outputs

    def _set_up(self, call: ContextCall, setting: tuple[int, int, int, int], state: Sequence[DeviceArray]) -> None:
        """Tell a context where things are and how large."""
        batch, time, rows, _ = setting
        past = [view.first(rows) for view in state] if self.spec.has_pool else state
        inputs = {"tokens": self._exchange.tokens(batch, time), "position": self._exchange.position}
        inputs |= {tensor.input: view for tensor, view in zip(self.spec.tensors, past, strict=True)}
        outputs = self._state.outputs(time)
        places = {tensor.output: place for tensor, place in zip(self.spec.tensors, outputs, strict=True)}
        call.set_up(inputs, {**places, "logits": self._exchange.logits(batch, time)})
        call.setting, call.outputs = setting, outputs

    def _call(self, graph: str, index: int, *, one_shape: bool) -> ContextCall:
        generation = self._state.generation, self._exchange.generation
        if generation != self._generation:
            self._forget_calls()  # their addresses are void
            self._generation = generation
        # what is recorded holds addresses: each side of the state has a context of its own
        key = graph, index, self._state.side if one_shape and self._records else 0
        if key not in self._calls:
            context = self._engines.context(graph, one_shape=one_shape)
            self._calls[key] = ContextCall(context, index, self._device)
        return self._calls[key]

    def _forget_calls(self) -> None:
        for call in self._calls.values():
            call.forget()
        self._calls.clear()

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> TensorRTSession:
        """As the table of targets opens it."""
        return cls(bundle, cuda_graph=options.cuda_graph, runtime_cache=options.runtime_cache)

    def _release(self) -> None:
        """Write the runtime cache and release everything on the device.

        A GPU that has failed releases nothing any more, and has been reported by what failed.
        """
        device = self._device
        for step in (device.synchronize, self._forget_calls, self._state.release, self._exchange.release, device.close):
            with contextlib.suppress(GpuFailureError):
                step()
        self._engines.close()
