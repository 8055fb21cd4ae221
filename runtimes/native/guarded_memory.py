"""Memory for C between bytes that nobody may write, and poisoned: what is read before it is written is NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from causalrn.runtimes.snapshot import Array
from causalrn.runtimes.state_buffers import aligned_zeros

_GUARD_BYTES, _GUARD, POISON = 4096, 0xA5, 0xFF


class GuardedMemory:
    """So many bytes, aligned to 64, between guards.

    Args:
        size: in bytes.
        what: it is, for people.
    """

    def __init__(self, size: int, what: str) -> None:
        self.what, self._size = what, size
        self._whole = aligned_zeros((size + 2 * _GUARD_BYTES,), np.uint8)
        self._whole[...] = _GUARD
        self.bytes[...] = POISON

    @classmethod
    def holding(cls, values: Array, what: str) -> GuardedMemory:
        """A copy of an array."""
        memory = cls(values.nbytes, what)
        memory.bytes[...] = np.frombuffer(values.tobytes(), np.uint8)
        return memory

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """What lies between the guards, uint8 [size]."""
        return self._whole[_GUARD_BYTES : _GUARD_BYTES + self._size]

    @property
    def address(self) -> int:
        """Of the first byte."""
        return int(self._whole.ctypes.data) + _GUARD_BYTES

    @property
    def is_poisoned(self) -> bool:
        """Whether nothing has been written."""
        return bool((self.bytes == POISON).all())

    def fault(self) -> str:
        """Which guard has been written to; empty where none has."""
        before, after = self._whole[:_GUARD_BYTES], self._whole[_GUARD_BYTES + self._size :]
        for where, guard in (("before", before), ("beyond", after)):
            if (guard != _GUARD).any():
                return f"it writes {where} {self.what}"
        return ""
