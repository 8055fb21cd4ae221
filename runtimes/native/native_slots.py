"""Slots of a C bundle: C takes the tokens of all sequences at once, and reads weights once for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Protocol

import numpy as np

from causalrn.errors import CapacityError
from causalrn.runtimes.cell_slots import Lending, StoredSlots
from causalrn.runtimes.native.library import REQUEST
from causalrn.runtimes.native.native_state import NativeState
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_buffers import aligned_zeros

_MOST_POSITION = (1 << 31) - 1


class SteppingMany(Lending, Protocol):
    """What these slots need of a native session."""

    def step_many(self, requests: Array, work: int) -> None: ...
    def memory_bytes(self, batch: int, capacity: int) -> tuple[int, int]: ...


class _Lineup:
    """Slots that are taken together: what C is told of them, kept from call to call while they stay the same.

    What Python does for one slot in every call would take as long as what C does for it: so columns of all slots.
    """

    def __init__(self, slots: tuple[int, ...], stores: Sequence[NativeState], *, has_pool: bool) -> None:
        self.slots, self._stores, self._has_pool = slots, stores, has_pool
        self.requests = np.zeros(len(slots), REQUEST)
        self._past = np.array([store.arrays.place for store in stores], np.uint64)
        self._next = np.array([store.target(reused=True).place for store in stores], np.uint64)
        self.rows = min(len(store.arrays[0]) for store in stores) if has_pool else 0
        if has_pool:
            self.requests["capacity"] = [len(store.arrays[0]) for store in stores]
        self.most_rows = int(self.requests["capacity"].max()) if has_pool else 1

    def prepare(self, positions: Sequence[int], ids: Array, times: tuple[int, ...], logits: FloatArray) -> None:
        """Write down one call."""
        requests, begins = self.requests, np.cumsum((0, *times[:-1]))
        requests["position"] = positions
        requests["time"] = times
        requests["tokens"] = ids.ctypes.data + begins * ids.itemsize
        requests["logits"] = logits.ctypes.data + begins * logits.strides[0]
        requests["past"], requests["next"] = self._past, self._next

    def settle(self) -> None:
        """Take over what a call has written: states of constant size go to and fro between two sets of tensors."""
        if not self._has_pool:
            self._past, self._next = self._next, self._past
            for store in self._stores:
                store.swap()


class NativeSlots(StoredSlots[NativeState]):
    """Slots of a native session; bit-equal to sequences alone, whatever others there are."""

    session: SteppingMany

    def __init__(self, session: SteppingMany) -> None:
        super().__init__(session)
        self._has_pool = session.spec.has_pool
        self._work, self._rows = aligned_zeros((0,), np.uint8), 0
        self._lineup: _Lineup | None = None

    def _open(self, slot: int) -> None:
        super()._open(slot)
        self._lineup = None

    def _close(self, slot: int) -> None:
        super()._close(slot)
        self._lineup = None

    def _advance(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        positions = [self._positions[slot] for slot in slots]
        lineup = self._line_up(slots, max(map(add, positions, times)))
        tokens = ids.astype(np.int32)
        logits = np.empty((len(ids), self.session.card.config.vocabulary), np.float32)
        lineup.prepare(positions, tokens, times, logits)
        self.session.step_many(lineup.requests, self._work_for(lineup.most_rows))
        lineup.settle()
        return logits

    def _line_up(self, slots: tuple[int, ...], end: int) -> _Lineup:
        """The slots of one call, with room up to the position `end`."""
        if end > _MOST_POSITION:
            raise CapacityError(f"a slot would reach position {end:,}: C counts up to {_MOST_POSITION:,}: release it")
        lineup, has_room = self._lineup, self.session.capacity is not None
        if lineup is not None and lineup.slots == slots and (has_room or not self._has_pool or end <= lineup.rows):
            return lineup
        stores = [self._stores[slot] for slot in slots]
        if self._has_pool and not has_room:
            for store in stores:
                store.reserve(end)
        lineup = _Lineup(slots, stores, has_pool=self._has_pool)
        if not self._has_pool:
            lineup.requests["capacity"] = self.session.capacity or _MOST_POSITION
        self._lineup = lineup
        return lineup

    def _work_for(self, rows: int) -> int:
        """Address of working memory for pools of so many rows."""
        if rows > self._rows:
            self._rows = rows
            self._work = aligned_zeros((self.session.memory_bytes(1, rows)[1],), np.uint8)
        return int(self._work.ctypes.data)

    def _load(self, slot: int, snapshot: Snapshot) -> None:
        super()._load(slot, snapshot)
        self._lineup = None
