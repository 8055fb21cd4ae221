"""The state of a recurrent cell on a device, at addresses that stay the same from step to step.

Tensors of one kind lie in one piece of memory, equally far apart: the new rows of all blocks, which a graph writes to
a staging place, move into their pools by one copy. A constant-size state has two sides: a graph reads one and writes
the other, so that a step that fails leaves its input whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from causalrn.bundle.state_spec import StateSpec
from causalrn.runtimes.snapshot import Array
from causalrn.runtimes.state_buffers import check_state
from causalrn.runtimes.trt.cuda_device import Device, DeviceMemory, allocating

_MOST_PITCH = 2**31 - 1
"""Bytes from one stretch to the next that CUDA's two-dimensional copies allow (cudaDeviceProp.memPitch)."""

_ALIGNMENT = 256
"""Of every tensor's address: what CUDA's own allocations have."""


@dataclass(frozen=True)
class DeviceArray:
    """An array on the device; rows of a pool may be a part of it."""

    address: int
    shape: tuple[int, ...]

    def first(self, rows: int) -> DeviceArray:
        """The first rows of a pool."""
        return DeviceArray(self.address, (rows, *self.shape[1:]))


@dataclass(frozen=True)
class _Group:
    """Tensors of one shape and dtype.

    Attributes:
        indices: of the tensors, in the order of the contract.
        row_bytes: of one row of a pool, or of a whole tensor of constant size; for one sequence.
        rows: that there is room for; 1 for a constant size.
    """

    indices: list[int]
    row_bytes: int
    rows: int


@dataclass(frozen=True)
class _Place:
    """Where a group lies.

    Attributes:
        sides: addresses of the first tensor: one, or two of which one is the present state.
        staging: address of the first tensor's new rows; of a constant size, where :meth:`DeviceState.mark` saves it.
        pitch, staging_pitch: bytes from one tensor to the next.
    """

    sides: tuple[int, ...]
    staging: int
    pitch: int
    staging_pitch: int


class DeviceState:
    """All state tensors of one session on a device; the interface is that of :class:`StateBuffers`.

    Args:
        spec: the state contract; pools need a capacity.
        chunk: most tokens taken at once.

    Attributes:
        generation: counts how often memory was allocated: addresses of an earlier generation are void. It happens when
            a batch is larger than all before.
        side: which of two sides of a constant-size state is the present one; pools have one side only.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, spec: StateSpec, device: Device, chunk: int) -> None:
        self.spec, self.generation, self.side = spec, 0, 0
        self._device, self._chunk = device, chunk if spec.has_pool else 1
        self._memory = DeviceMemory(device)
        self._batch = self._room = 0
        self._viewed: tuple[int, ...] = ()
        self._views: list[DeviceArray] = []
        self._groups = self._grouped()
        self._places: list[_Place] = []
        self._found = {index: (g, n) for g, group in enumerate(self._groups) for n, index in enumerate(group.indices)}
        self.clear(1)

    def _grouped(self) -> list[_Group]:
        groups: dict[tuple[str, tuple[int, ...]], _Group] = {}
        for index, tensor in enumerate(self.spec.tensors):
            shape = tensor.given(batch=1, rows=1)
            if (tensor.dtype, shape) not in groups:
                row_bytes = math.prod(shape) * np.dtype(tensor.dtype).itemsize
                rows = 1
                if tensor.growth == "token":
                    assert tensor.capacity is not None, "a pool on a device has a capacity"
                    rows = tensor.capacity + self.spec.step_pad_rows
                groups[tensor.dtype, shape] = _Group([], row_bytes, rows)
            groups[tensor.dtype, shape].indices.append(index)
        return list(groups.values())

    def clear(self, batch: int) -> None:
        """A fresh state: all zeros. Where memory does not suffice, the state is left as it was."""
        if batch > self._room:
            self._allocate(batch)
        self._batch, self.side = batch, 0
        for group, place in zip(self._groups, self._places, strict=True):
            width = group.rows * group.row_bytes * batch
            self._zero(group, place.sides[0], place.pitch, width)

    def _allocate(self, batch: int) -> None:
        """Room for so many sequences; the earlier memory is given back when the new one is there."""
        places, sides = [], 1 if self.spec.has_pool else 2
        with allocating(self._device) as memory:
            for group in self._groups:
                pitch = _aligned(group.rows * group.row_bytes * batch)
                staging_pitch, count = _aligned(self._chunk * group.row_bytes * batch), len(group.indices)
                addresses = tuple(memory.allocate(pitch * count) for _ in range(sides))
                places.append(_Place(addresses, memory.allocate(staging_pitch * count), pitch, staging_pitch))
        before, self._memory = self._memory, memory
        self._places, self._room, self.generation = places, batch, self.generation + 1
        before.release()

    def release(self) -> None:
        """Give all memory back."""
        self._memory.release()
        self._room = 0

    def reserve(self, rows: int) -> None:
        """Nothing: there is room for the whole capacity."""

    def views(self, position: int, pad_rows: int) -> list[DeviceArray]:
        """What a graph is given at `position`; of a fixed pool all rows, of which it may be handed fewer."""
        rows = position + pad_rows if self.spec.pool == "growing" else 0
        key = self._batch, self.side, self.generation, rows
        if key != self._viewed:  # of what does not grow they stay the same, and a step has no time to lose
            self._views = [self._array(index, rows) for index in range(len(self.spec.tensors))]
            self._viewed = key
        return self._views

    def _array(self, index: int, rows: int) -> DeviceArray:
        group, number = self._found[index]
        place, tensor = self._places[group], self.spec.tensors[index]
        rows = self._groups[group].rows if self.spec.pool == "fixed" else rows
        return DeviceArray(place.sides[self.side] + number * place.pitch, tensor.given(batch=self._batch, rows=rows))

    def outputs(self, time: int) -> list[DeviceArray]:
        """Where a graph for T tokens writes: the staging place for new rows, or the other side."""
        places = []
        for index, tensor in enumerate(self.spec.tensors):
            group, number = self._found[index]
            place = self._places[group]
            if self.spec.has_pool:
                start, pitch = place.staging, place.staging_pitch
            else:
                start, pitch = place.sides[1 - self.side], place.pitch
            places.append(DeviceArray(start + number * pitch, tensor.given(batch=self._batch, rows=time)))
        return places

    def update(self, position: int, outputs: Sequence[DeviceArray]) -> None:
        """Take over what a graph wrote for the positions from `position` on: one copy, or none."""
        if not self.spec.has_pool:
            self.side = 1 - self.side
            return
        for group, place in zip(self._groups, self._places, strict=True):
            row = group.row_bytes * self._batch
            width = row * outputs[group.indices[0]].shape[0]
            target = place.sides[0] + position * row
            self._copy(group, target, place.pitch, place.staging, place.staging_pitch, width)

    def mark(self) -> None:
        """Keep a copy of a constant-size state: several chunks write to both of its sides."""
        if not self.spec.has_pool:
            for group, place in zip(self._groups, self._places, strict=True):
                width = group.row_bytes * self._batch
                self._copy(group, place.staging, place.staging_pitch, place.sides[self.side], place.pitch, width)

    def truncate(self, position: int, mark: None) -> None:
        """Undo updates after `position`."""
        for group, place in zip(self._groups, self._places, strict=True):
            row = group.row_bytes * self._batch
            if self.spec.has_pool:
                self._zero(group, place.sides[0] + position * row, place.pitch, (group.rows - position) * row)
            else:
                self._copy(group, place.sides[self.side], place.pitch, place.staging, place.staging_pitch, row)

    def _copy(self, group: _Group, target: int, target_pitch: int, source: int, source_pitch: int, width: int) -> None:
        """Copy the same stretch of all tensors of a group."""
        count = len(group.indices)
        if max(target_pitch, source_pitch) <= _MOST_PITCH:
            self._device.copy(target, target_pitch, source, source_pitch, width, count)
            return
        for number in range(count):
            here, there = target + number * target_pitch, source + number * source_pitch
            self._device.copy(here, width, there, width, width, 1)

    def _zero(self, group: _Group, address: int, pitch: int, width: int) -> None:
        """Set the same stretch of all tensors of a group to zero."""
        if pitch <= _MOST_PITCH:
            self._device.zero(address, pitch, width, len(group.indices))
            return
        for number in range(len(group.indices)):
            self._device.zero(address + number * pitch, width, width, 1)

    def copies(self, position: int) -> dict[str, Array]:
        """Copies by name, pools cut to `position` rows."""
        arrays = {}
        for index, tensor in enumerate(self.spec.tensors):
            array = np.empty(tensor.given(batch=self._batch, rows=position), tensor.dtype)
            if array.size:
                self._device.to_host(array, self._array(index, position).address)
            arrays[tensor.name] = array
        self._device.synchronize()
        return arrays

    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None:
        """Replace everything by a snapshot's tensors.

        Raises:
            StateError: a tensor is missing, left over, or has another shape or dtype; nothing has been changed.
        """
        check_state(self.spec, tensors, position, batch)
        self.clear(batch)
        sources = [np.asarray(tensors[tensor.name], order="C") for tensor in self.spec.tensors]
        for index, source in enumerate(sources):
            if source.size:
                self._device.to_device(self._array(index, position).address, source)
        self._device.synchronize()  # the sources may go away


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
