"""One call of an engine: a context that knows places and shapes, run kernel by kernel or as a recorded CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from causalrn.errors import GpuFailureError
from causalrn.runtimes.trt.cuda_device import Device
from causalrn.runtimes.trt.device_state import DeviceArray


class ContextCall:
    """One execution context: places and shapes that are set once and again only if they change, and its CUDA graph.

    Attributes:
        setting: batch, tokens, rows and side that it was last set up for.
        outputs: where it writes the state.
    """

    def __init__(self, context: Any, profile: int, device: Device) -> None:
        self.replays = 0
        self.setting: tuple[int, int, int, int] | None = None
        self.outputs: Sequence[DeviceArray] = ()
        self._context, self._device = context, device
        self._known: dict[str, DeviceArray] = {}
        self._recorded: Any = None
        self._ran = False
        engine = context.engine
        self._names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if not context.set_optimization_profile_async(profile, device.stream):
            raise GpuFailureError(f"TensorRT refused the engine's profile {profile}: compile the bundle again")

    def set_up(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Set what has changed; then nothing that was recorded is valid any more."""
        self.setting = None
        self._set(inputs, shaped=True)
        self._set(outputs, shaped=False)

    def run(self, *, record: bool) -> None:
        """Queue the graph once; with `record` from the third time on by replaying what was recorded the second time."""
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
