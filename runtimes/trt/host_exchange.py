"""What goes from the host to the device at every call, and what comes back."""

from __future__ import annotations

import numpy as np

from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.trt.cuda_device import Device, DeviceMemory, allocating
from causalrn.runtimes.trt.device_state import DeviceArray

_TOKENS_AT = 32
"""Where tokens begin in what goes to the device, in int64: the position is first, and addresses are aligned."""


class HostExchange:
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
