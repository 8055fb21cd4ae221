"""The state of a recurrent cell on a device, at addresses that stay the same from step to step.

Tensors of one kind lie in one piece of memory, equally far apart: the new rows of all blocks, which a graph writes to
a staging place, move into their pools by one copy. A constant-size state has two sides: a graph reads one and writes
the other, so that a step that fails leaves its input whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from causalrn.runtimes.session import Array
from causalrn.runtimes.state_buffers import check_state
from causalrn.runtimes.trt.cuda_device import Device
from causalrn.state_spec import StateSpec

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


@dataclass
class _Group:
    """Tensors of one shape and dtype.

    Attributes:
        indices: of the tensors, in the order of the contract.
        row_bytes: of one row of a pool, or of a whole tensor of constant size; for one sequence.
        rows: that there is room for; 1 for a constant size.
        sides: addresses of the first tensor: one, or two of which one is the present state.
        staging: address of the first tensor's new rows; of a constant size, where :meth:`DeviceState.mark` saves it.
        pitch, staging_pitch: bytes from one tensor to the next.
    """

    indices: list[int]
    row_bytes: int
    rows: int
    sides: list[int] = field(default_factory=list)
    staging: int = 0
    pitch: int = 0
    staging_pitch: int = 0


class DeviceState:
    """All state tensors of one session on a device; the interface is that of :class:`StateBuffers`.

    Args:
        spec: the state contract; pools need a capacity.
        chunk: most tokens taken at once.

    Attributes:
        generation: counts how often memory was allocated: addresses of an earlier generation are void. It happens when
            a batch is larger than all before.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, spec: StateSpec, device: Device, chunk: int) -> None:
        self.spec, self.generation = spec, 0
        self._device, self._chunk = device, chunk if spec.has_pool else 1
        self._batch = self._room = 0
        self._side = 0
        self._groups = self._grouped()
        self._place = {index: (group, n) for group in self._groups for n, index in enumerate(group.indices)}
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

    @property
    def is_released(self) -> bool:
        """Whether there is no memory left."""
        return not self._room

    @property
    def side(self) -> int:
        """Which of two sides of a constant-size state is the present one; pools have one side only."""
        return self._side

    def clear(self, batch: int) -> None:
        """A fresh state: all zeros."""
        if batch > self._room:
            self.release()
            self._allocate(batch)
        self._batch, self._side = batch, 0
        for group in self._groups:
            self._device.zero(group.sides[0], group.pitch, group.rows * group.row_bytes * batch, len(group.indices))

    def _allocate(self, batch: int) -> None:
        self._room, self.generation = batch, self.generation + 1
        for group in self._groups:
            group.pitch = _aligned(group.rows * group.row_bytes * batch)
            group.staging_pitch = _aligned(self._chunk * group.row_bytes * batch)
            sides, count = (1 if self.spec.has_pool else 2), len(group.indices)
            group.sides = [self._device.allocate(group.pitch * count) for _ in range(sides)]
            group.staging = self._device.allocate(group.staging_pitch * count)

    def release(self) -> None:
        """Give all memory back, once nothing that is queued uses it."""
        self._device.synchronize()
        for group in self._groups:
            for address in [*group.sides, *([group.staging] if group.sides else [])]:
                self._device.free(address)
            group.sides = []
        self._room = 0

    def reserve(self, rows: int) -> None:
        """Nothing: there is room for the whole capacity."""

    def views(self, position: int, pad_rows: int) -> list[DeviceArray]:
        """What a graph is given at `position`; of a fixed pool all rows, of which it may be handed fewer."""
        return [self._array(index, position + pad_rows) for index in range(len(self.spec.tensors))]

    def _array(self, index: int, rows: int) -> DeviceArray:
        group, number = self._place[index]
        tensor = self.spec.tensors[index]
        rows = group.rows if self.spec.pool == "fixed" else rows
        return DeviceArray(group.sides[self._side] + number * group.pitch, tensor.given(batch=self._batch, rows=rows))

    def outputs(self, time: int) -> list[DeviceArray]:
        """Where a graph for T tokens writes: the staging place for new rows, or the other side."""
        places = []
        for index, tensor in enumerate(self.spec.tensors):
            group, number = self._place[index]
            if self.spec.has_pool:
                start, pitch = group.staging, group.staging_pitch
            else:
                start, pitch = group.sides[1 - self._side], group.pitch
            places.append(DeviceArray(start + number * pitch, tensor.given(batch=self._batch, rows=time)))
        return places

    def update(self, position: int, outputs: Sequence[DeviceArray]) -> None:
        """Take over what a graph wrote for the positions from `position` on: one copy, or none."""
        if not self.spec.has_pool:
            self._side = 1 - self._side
            return
        for group in self._groups:
            row = group.row_bytes * self._batch
            width = row * outputs[group.indices[0]].shape[0]
            target = group.sides[0] + position * row
            self._device.copy(target, group.pitch, group.staging, group.staging_pitch, width, len(group.indices))

    def mark(self) -> None:
        """Keep a copy of a constant-size state: several chunks write to both of its sides."""
        if not self.spec.has_pool:
            for group in self._groups:
                self._move(group, group.staging, group.staging_pitch, group.sides[self._side], group.pitch)

    def truncate(self, position: int, mark: None) -> None:
        """Undo updates after `position`."""
        for group in self._groups:
            if not self.spec.has_pool:
                self._move(group, group.sides[self._side], group.pitch, group.staging, group.staging_pitch)
                continue
            row = group.row_bytes * self._batch
            left = (group.rows - position) * row
            self._device.zero(group.sides[0] + position * row, group.pitch, left, len(group.indices))

    def _move(self, group: _Group, target: int, target_pitch: int, source: int, source_pitch: int) -> None:
        width = group.row_bytes * self._batch
        self._device.copy(target, target_pitch, source, source_pitch, width, len(group.indices))

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
        sources = [np.ascontiguousarray(tensors[tensor.name]) for tensor in self.spec.tensors]
        for index, source in enumerate(sources):
            if source.size:
                self._device.to_device(self._array(index, position).address, source)
        self._device.synchronize()  # the sources may go away


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
