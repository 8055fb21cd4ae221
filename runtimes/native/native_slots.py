"""Slots of a C bundle: C takes the tokens of all sequences at once, and reads weights once for many of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import CapacityError
from causalrn.runtimes.checks import check_snapshot
from causalrn.runtimes.native.library import REQUEST
from causalrn.runtimes.native.native_state import NativeState
from causalrn.runtimes.slots import Slots, Stepping, check_single
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_buffers import aligned_zeros

_MOST_POSITION = (1 << 31) - 1


class SteppingMany(Stepping, Protocol):
    """What these slots need of a native session."""

    spec: StateSpec
    origin: StateOrigin
    owner: str

    def new_store(self) -> NativeState: ...
    def step_many(self, requests: Array, work: int) -> None: ...
    def memory_bytes(self, batch: int, capacity: int) -> tuple[int, int]: ...


class NativeSlots(Slots):
    """Slots of a native session; bit-equal to sequences alone, whatever others there are."""

    session: SteppingMany

    def __init__(self, session: SteppingMany) -> None:
        super().__init__(session)
        self._stores: dict[int, NativeState] = {}
        self._has_pool = session.spec.has_pool
        self._work, self._rows = aligned_zeros((0,), np.uint8), 0

    def _open(self, slot: int) -> None:
        self._stores[slot] = self.session.new_store()

    def _close(self, slot: int) -> None:
        del self._stores[slot]

    def _advance(self, tokens: Mapping[int, IntArray]) -> dict[int, FloatArray]:
        """Arrays are made once for all slots: what C does for one of them takes no longer than a few of those would."""
        times = [len(ids) for ids in tokens.values()]
        begins = np.cumsum([0, *times])
        stores = [self._reserved(slot, time) for slot, time in zip(tokens, times, strict=True)]
        ids = np.concatenate(list(tokens.values()), dtype=np.int32)
        logits = np.empty((len(ids), self.session.card.config.vocabulary), np.float32)
        past, following = [store.arrays for store in stores], [store.target(reused=True) for store in stores]
        rows = [len(arrays[0]) if self._has_pool else 1 for arrays in past]
        requests = np.zeros(len(times), REQUEST)
        requests["position"] = [self._positions[slot] for slot in tokens]
        requests["capacity"] = rows if self._has_pool else self.session.capacity or _MOST_POSITION
        requests["time"] = times
        requests["tokens"] = ids.ctypes.data + begins[:-1] * ids.itemsize
        requests["logits"] = logits.ctypes.data + begins[:-1] * logits.strides[0]
        requests["past"] = [arrays.place for arrays in past]
        requests["next"] = [arrays.place for arrays in following]
        self.session.step_many(requests, self._work_for(max(rows)))
        for slot, store, target in zip(tokens, stores, following, strict=True):
            store.update(self._positions[slot], target)
        ends = begins.tolist()
        return {slot: logits[ends[n] : ends[n + 1]] for n, slot in enumerate(tokens)}

    def _reserved(self, slot: int, time: int) -> NativeState:
        store, position = self._stores[slot], self._positions[slot]
        if position + time > _MOST_POSITION:
            raise CapacityError(f"slot {slot}: C counts positions up to {_MOST_POSITION:,}: release it")
        if self.session.capacity is None:
            store.reserve(position + time)
        return store

    def _work_for(self, rows: int) -> int:
        """Address of working memory for pools of so many rows."""
        if rows > self._rows:
            self._rows = rows
            self._work = aligned_zeros((self.session.memory_bytes(1, rows)[1],), np.uint8)
        return int(self._work.ctypes.data)

    def _copy(self, slot: int) -> Snapshot:
        position, logits = self._positions[slot], self._logits.get(slot)
        row = None if logits is None else logits[None].copy()
        belongs = self.session.owner, (), *self.session.origin.kinds
        return Snapshot(position, 1, self._stores[slot].copies(position), row, *belongs)

    def _load(self, slot: int, snapshot: Snapshot) -> None:
        check_single(snapshot)
        session = self.session
        check_snapshot(snapshot, session.origin, session.card, capacity=session.capacity, max_batch=1)
        self._stores[slot].load(snapshot.tensors, snapshot.position, 1)
