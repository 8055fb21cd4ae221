"""Slots of a C bundle: C takes the tokens of all sequences at once, and reads weights once for many of them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import CapacityError
from causalrn.runtimes.checks import check_snapshot
from causalrn.runtimes.native.library import Request
from causalrn.runtimes.native.native_state import NativeState, Tensors
from causalrn.runtimes.slots import Slots, Stepping, check_single
from causalrn.runtimes.snapshot import FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_buffers import aligned_zeros

_MOST_POSITION = (1 << 31) - 1


class SteppingMany(Stepping, Protocol):
    """What these slots need of a native session."""

    spec: StateSpec
    origin: StateOrigin
    owner: str

    def new_store(self) -> NativeState: ...
    def step_many(self, requests: ctypes.Array[Request], work: int) -> None: ...
    def memory_bytes(self, batch: int, capacity: int) -> tuple[int, int]: ...


@dataclass
class _Call:
    """One slot's part of a call, and what keeps its memory alive."""

    store: NativeState
    target: Tensors
    tokens: IntArray
    logits: FloatArray


class NativeSlots(Slots):
    """Slots of a native session; bit-equal to sequences alone, whatever others there are."""

    session: SteppingMany

    def __init__(self, session: SteppingMany) -> None:
        super().__init__(session)
        self._stores: dict[int, NativeState] = {}
        self._work, self._rows = aligned_zeros((0,), np.uint8), 0

    def _open(self, slot: int) -> None:
        self._stores[slot] = self.session.new_store()

    def _close(self, slot: int) -> None:
        del self._stores[slot]

    def _advance(self, tokens: Mapping[int, IntArray]) -> dict[int, FloatArray]:
        calls = {slot: self._call(slot, ids) for slot, ids in tokens.items()}
        requests = (Request * len(calls))()
        rows = 1
        for request, (slot, call) in zip(requests, calls.items(), strict=True):
            past = call.store.arrays
            request.position, request.time = self._positions[slot], len(call.tokens)
            request.capacity = len(past[0]) if self.session.spec.has_pool else self.session.capacity or _MOST_POSITION
            request.tokens, request.logits = call.tokens.ctypes.data, call.logits.ctypes.data
            request.past = ctypes.cast(past.addresses, ctypes.c_void_p)
            request.next = ctypes.cast(call.target.addresses, ctypes.c_void_p)
            rows = max(rows, len(past[0]) if self.session.spec.has_pool else 1)
        self.session.step_many(requests, self._work_for(rows))
        for slot, call in calls.items():
            call.store.update(self._positions[slot], call.target)
        return {slot: call.logits for slot, call in calls.items()}

    def _call(self, slot: int, ids: IntArray) -> _Call:
        store, position = self._stores[slot], self._positions[slot]
        if position + len(ids) > _MOST_POSITION:
            raise CapacityError(f"slot {slot}: C counts positions up to {_MOST_POSITION:,}: release it")
        if self.session.capacity is None:
            store.reserve(position + len(ids))
        logits = np.empty((len(ids), self.session.card.config.vocabulary), np.float32)
        return _Call(store, store.target(reused=True), ids.astype(np.int32), logits)

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
