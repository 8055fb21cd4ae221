"""The state of a recurrent cell in memory, driven by the state contract and nothing else.

A growing pool lies in a buffer of rows; a graph is given a prefix of it, which is contiguous because pools are
time-major, so appending a token writes one row and copies nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import StateError
from causalrn.runtimes.snapshot import Array

_FIRST_ROWS = 256
_ALIGNMENT, _MAPPED_BYTES = 64, 64 << 10
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def aligned_zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Zeros that begin at a multiple of 64 bytes: a cache line, and the widest vector.

    Memory that is not touched is not taken. `numpy.zeros` promises that for a program's first arrays only: where memory
    is used again, it writes the zeros, and a pool for 4,096 tokens takes all of its memory at the first of them.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size >= _MAPPED_BYTES:
        try:
            whole = np.frombuffer(mmap.mmap(-1, size, **_PRIVATE), np.uint8)
        except (OSError, OverflowError):
            raise MemoryError from None
    else:
        whole = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % _ALIGNMENT
    array: Array = whole[start : start + size].view(dtype).reshape(shape)
    return array


class StateBuffers:
    """All state tensors of one session, as numpy arrays.

    Args:
        spec: the state contract.
        dtype: of what the contract has in float32: another one for a float64 reference session.
    """

    def __init__(self, spec: StateSpec, dtype: npt.DTypeLike = np.float32) -> None:
        self.spec = spec
        self.dtype = np.dtype(dtype)
        self._dtypes = [self.dtype if t.dtype == "float32" else np.dtype(t.dtype) for t in spec.tensors]
        self.arrays: list[Array] = []
        self._rules = [tensor.update == "append" for tensor in spec.tensors]
        self._appends = all(self._rules)
        self._replaces = not any(self._rules)
        self.clear(1)

    def clear(self, batch: int) -> None:
        """A fresh state: all zeros."""
        self.arrays = [
            aligned_zeros(self._allocated_shape(tensor, batch, 0), dtype)
            for tensor, dtype in zip(self.spec.tensors, self._dtypes, strict=True)
        ]

    def _allocated_shape(self, tensor: StateTensor, batch: int, rows: int) -> tuple[int, ...]:
        """Shape of the buffer. A growing pool has a row more than the capacity, for a step's zero slot."""
        if tensor.update == "append" and self.spec.pool == "growing":  # pages are taken when they are used
            rows = max(rows, _FIRST_ROWS if tensor.capacity is None else tensor.capacity) + 1
        return tensor.sized(batch=batch, rows=rows)

    def reserve(self, rows: int) -> None:
        """Make room for so many positions: pools without a capacity grow by doubling."""
        if self.spec.pool != "growing" or rows < len(self.arrays[self._rules.index(True)]):
            return
        grown = list(self.arrays)
        for place, (appends, old) in enumerate(zip(self._rules, self.arrays, strict=True)):
            if appends:
                grown[place] = aligned_zeros((2 * rows + 1, *old.shape[1:]), old.dtype)
                grown[place][: len(old)] = old
        self.arrays = grown  # as a whole: a subclass keeps where they lie

    def views(self, position: int, pad_rows: int) -> list[Array]:
        """What a graph is given at `position`: prefixes of growing pools with `pad_rows` zero rows, else the whole."""
        if self.spec.pool == "growing":
            end = position + pad_rows
            if self._appends:
                return [array[:end] for array in self.arrays]
            both = zip(self._rules, self.arrays, strict=True)
            return [array[:end] if appends else array for appends, array in both]
        return self.arrays

    def update(self, position: int, outputs: Sequence[Array]) -> None:
        """Take over what a graph gave for the positions from `position` on."""
        if self._replaces:
            self.arrays = list(outputs)
        elif not self._appends:
            given = list(outputs)
            for place, (appends, value) in enumerate(zip(self._rules, outputs, strict=True)):
                if appends:
                    self.arrays[place][position : position + len(value)] = value
                    given[place] = self.arrays[place]
            self.arrays = given
        elif len(outputs[0]) == 1:  # a step: assigning a row is faster than assigning a slice of one row
            for array, value in zip(self.arrays, outputs, strict=True):
                array[position] = value[0]
        else:
            for array, value in zip(self.arrays, outputs, strict=True):
                array[position : position + len(value)] = value

    def mark(self) -> list[Array]:
        """What :meth:`truncate` needs to come back here."""
        return list(self.arrays)

    def truncate(self, position: int, mark: Sequence[Array]) -> None:
        """Undo updates after `position`; `mark` is from then."""
        self.arrays = list(mark)
        for appends, array in zip(self._rules, self.arrays, strict=True):
            if appends:
                array[position:] = 0

    def copies(self, position: int) -> dict[str, Array]:
        """Copies by name, pools cut to `position` rows."""
        return {
            tensor.name: (array[:position] if tensor.is_pool and self._has_empty_rows(tensor) else array).copy()
            for tensor, array in zip(self.spec.tensors, self.arrays, strict=True)
        }

    def _has_empty_rows(self, tensor: StateTensor) -> bool:
        """Whether rows of the buffer may lie beyond the position."""
        return tensor.update == "append" or self.spec.pool == "fixed"

    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None:
        """Replace everything by a snapshot's tensors.

        Raises:
            StateError: a tensor is missing, left over, or has another shape or dtype; nothing has been changed.
        """
        check_state(self.spec, tensors, position, batch, self.dtype)
        arrays = []
        for tensor, dtype in zip(self.spec.tensors, self._dtypes, strict=True):
            value = tensors[tensor.name]
            array = aligned_zeros(self._allocated_shape(tensor, batch, position), dtype)
            array[tuple(slice(size) for size in value.shape)] = value
            arrays.append(array)
        self.arrays = arrays


def check_state(
    spec: StateSpec, tensors: Mapping[str, Array], position: int, batch: int, dtype: npt.DTypeLike = np.float32
) -> None:
    """Check a snapshot's tensors against the contract; `dtype` of what is float32 there.

    Raises:
        StateError: a tensor is missing, left over, or has another shape or dtype.
    """
    if [*tensors] == ["tokens"]:
        raise StateError("the state is a history of tokens, as the parallel form keeps it: restore it in that runtime")
    if tensors.keys() != {tensor.name for tensor in spec.tensors}:
        raise StateError(f"the state holds {sorted(tensors)[:3]}..., this model's tensors have other names")
    for tensor in spec.tensors:
        value, wanted = tensors[tensor.name], np.dtype(dtype if tensor.dtype == "float32" else tensor.dtype)
        expected = tensor.given(batch=batch, rows=position)
        if value.shape != expected or value.dtype != wanted:
            raise StateError(
                f"state tensor {tensor.name} is {value.dtype} {list(value.shape)}, expected {wanted} {list(expected)}"
            )
