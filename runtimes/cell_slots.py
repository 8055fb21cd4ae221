"""Slots of a session whose graph can be run with any state: each keeps its own, and nothing is copied to and fro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.runtimes.checks import check_finite, check_snapshot
from causalrn.runtimes.slots import Slots, Stepping, check_single
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_buffers import StateBuffers

S = TypeVar("S", bound=StateBuffers)


class Lending(Stepping, Protocol):
    """What these slots need of a session."""

    spec: StateSpec
    origin: StateOrigin
    owner: str

    def new_store(self) -> Any: ...
    def take_into(self, store: Any, position: int, tokens: IntArray) -> FloatArray: ...


class StoredSlots(Slots, Generic[S]):
    """Slots that keep a state each, in memory of their own."""

    session: Lending

    def __init__(self, session: Lending) -> None:
        super().__init__(session)
        self._stores: dict[int, S] = {}

    def _open(self, slot: int) -> None:
        self._stores[slot] = self.session.new_store()

    def _close(self, slot: int) -> None:
        del self._stores[slot]

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


class CellSlots(StoredSlots[StateBuffers]):
    """Slots of a recurrent cell, which takes one after the other."""

    def _advance(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        begun: list[tuple[StateBuffers, int, Any]] = []
        try:
            return self._take_each(slots, np.split(ids, np.cumsum(times)[:-1]), begun)
        except BaseException:
            undo(begun)
            raise

    def _take_each(
        self, slots: Sequence[int], rows: Sequence[IntArray], begun: list[tuple[StateBuffers, int, Any]]
    ) -> FloatArray:
        """Take tokens [T] of slots one after the other -> [T, V]; `begun` gets what :func:`undo` needs."""
        given: list[FloatArray] = []
        for slot, row in zip(slots, rows, strict=True):
            store, position = self._stores[slot], self._positions[slot]
            before = store.mark()
            given.append(self.session.take_into(store, position, row[None])[0])
            begun.append((store, position, before))
        return np.concatenate(given)


def undo(begun: Sequence[tuple[StateBuffers, int, Any]]) -> None:
    """Have states go back to positions and marks."""
    for store, position, before in begun:
        store.truncate(position, before)


class SteppingRows(Lending, Protocol):
    """What :class:`RowSlots` need of a session."""

    def step_rows(
        self, tokens: IntArray, positions: IntArray, state: Sequence[Array]
    ) -> tuple[FloatArray, list[Array]]: ...


class RowSlots(CellSlots):
    """Slots whose states have one size: a step takes them as rows of a batch, each at its position.

    While the same slots step, their states stay side by side as the graph left them.
    """

    session: SteppingRows

    def __init__(self, session: SteppingRows) -> None:
        super().__init__(session)
        self._joined: tuple[tuple[int, ...], list[Array]] = ((), [])

    def _advance(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        counts = np.array(times)
        joins = (counts == 1).sum() > 1
        if not joins or (counts > 1).any():
            self._part()
        if not joins:
            return super()._advance(slots, ids, times)
        is_single = np.repeat(counts == 1, counts)  # [T], by token
        logits = np.empty((len(ids), self.session.card.config.vocabulary), np.float32)
        begun: list[tuple[StateBuffers, int, Any]] = []
        try:
            if not is_single.all():
                longer = [slot for slot, time in zip(slots, times, strict=True) if time > 1]
                rows = np.split(ids[~is_single], np.cumsum(counts[counts > 1])[:-1])
                logits[~is_single] = self._take_each(longer, rows, begun)
            singles = tuple(slot for slot, time in zip(slots, times, strict=True) if time == 1)
            logits[is_single] = self._step_rows(singles, ids[is_single])
        except BaseException:
            undo(begun)
            raise
        return logits

    def _step_rows(self, slots: tuple[int, ...], ids: IntArray) -> FloatArray:
        """A token in each of several slots: logits [B, V]."""
        positions = np.array([self._positions[slot] for slot in slots], np.int64)
        logits, state = self.session.step_rows(ids[:, None], positions, self._join(slots))
        check_finite(logits)
        self._joined = slots, state
        return logits[:, 0]

    def _join(self, slots: tuple[int, ...]) -> list[Array]:
        """States of slots side by side, [B, ...] each."""
        if self._joined[0] == slots:
            return self._joined[1]
        self._part()
        states = [self._stores[slot].arrays for slot in slots]
        axes = (tensor.batch_axis for tensor in self.session.spec.tensors)
        return [np.concatenate(tensors, axis) for axis, tensors in zip(axes, zip(*states, strict=True), strict=True)]

    def _part(self) -> None:
        """Give every slot its own state back."""
        slots, state = self._joined
        if slots:
            axes = (tensor.batch_axis for tensor in self.session.spec.tensors)
            parts = [np.split(array, len(slots), axis) for axis, array in zip(axes, state, strict=True)]
            for slot, *own in zip(slots, *parts, strict=True):
                self._stores[slot].arrays = [np.ascontiguousarray(array) for array in own]
        self._joined = (), []

    def _close(self, slot: int) -> None:
        self._part()
        super()._close(slot)

    def _copy(self, slot: int) -> Snapshot:
        self._part()
        return super()._copy(slot)

    def _load(self, slot: int, snapshot: Snapshot) -> None:
        self._part()
        super()._load(slot, snapshot)
