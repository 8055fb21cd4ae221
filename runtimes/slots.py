"""Slots: any number of sequences of one model, each at its own position, that join and leave at any token."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from causalrn.errors import CapacityError, InputError, StateError
from causalrn.runtimes.checks import as_array, check_tokens
from causalrn.runtimes.closing import Closing
from causalrn.runtimes.snapshot import FloatArray, IntArray, Snapshot
from causalrn.training.card import ModelCard


class Stepping(Protocol):
    """What slots need of a session."""

    card: ModelCard
    capacity: int | None

    def step(self, tokens: npt.ArrayLike) -> FloatArray: ...
    def prefill(self, tokens: npt.ArrayLike) -> FloatArray: ...
    def reset(self, batch: int | None = None) -> None: ...
    def snapshot(self) -> Snapshot: ...
    def restore(self, snapshot: Snapshot) -> None: ...


class Slots(Closing):
    """Sequences of one model at positions of their own: `admit`, `step` over some of them, `release`.

    Every sequence gets what a session of its own would give it, bit for bit; how much faster than one by one is the
    runtime's: docs/c-library.md. A call that fails has changed no slot.

    Args:
        session: whose model they run; one thread at a time, as the session. The session's own state stays as it is.

    Example:
        >>> with open_session("bundle").slots() as slots:  # doctest: +SKIP
        ...     first, second = slots.admit(), slots.admit()
        ...     slots.prefill({first: [0, 3, 4, 1], second: [0, 5, 1]})
        ...     logits = slots.step({first: 3, second: 5})[first]
    """

    def __init__(self, session: Stepping) -> None:
        self.session = session
        self._positions: dict[int, int] = {}
        self._logits: dict[int, FloatArray] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Slots in use."""
        return tuple(self._positions)

    def admit(self, snapshot: Snapshot | None = None) -> int:
        """A slot with a fresh sequence, or with the one of a snapshot, which a session or a slot gave; its number.

        Raises:
            StateError: a snapshot of something else, or of more than one sequence.
        """
        number = next(number for number in range(len(self._positions) + 1) if number not in self._positions)
        self._open(number)
        self._positions[number] = 0
        if snapshot is not None:
            try:
                self.restore(number, snapshot)
            except BaseException:
                self.release(number)
                raise
        return number

    def release(self, slot: int) -> None:
        """End a sequence; the slot's number comes again.

        Raises:
            InputError: no such slot is in use.
        """
        self._checked_slots((slot,))
        del self._positions[slot]
        self._logits.pop(slot, None)
        self._close(slot)

    def position(self, slot: int) -> int:
        """Tokens that a slot has taken."""
        self._checked_slots((slot,))
        return self._positions[slot]

    def last_logits(self, slot: int) -> FloatArray | None:
        """[V] after a slot's last token; None at position 0."""
        self._checked_slots((slot,))
        logits = self._logits.get(slot)
        return None if logits is None else logits.copy()

    def step(self, tokens: Mapping[int, int]) -> dict[int, FloatArray]:
        """Take one token in each of some slots: gives logits [V] of what comes next, by slot.

        Raises:
            InputError: a slot that is not in use, or a token id that cannot be.
            CapacityError: a slot has no position left.
            NonFiniteError: NaN or infinity came out of one.
        """
        slots = self._checked_slots(tokens)
        if not slots:
            return {}
        ids = check_tokens(as_array(list(tokens.values())).reshape(1, -1), 1, self.session.card.config.vocabulary)[0]
        return dict(zip(slots, self._take(slots, ids, (1,) * len(slots)), strict=True))

    def prefill(self, tokens: Mapping[int, npt.ArrayLike]) -> dict[int, FloatArray]:
        """Take any number of tokens in each of some slots: gives logits [T, V] after every token, by slot.

        Raises:
            InputError, CapacityError, NonFiniteError: as :meth:`step`; no slot has taken anything then.
        """
        slots, vocabulary = self._checked_slots(tokens), self.session.card.config.vocabulary
        if not slots:
            return {}
        rows = [check_tokens(as_array(ids).reshape(1, -1), 1, vocabulary)[0] for ids in tokens.values()]
        times = tuple(len(ids) for ids in rows)
        logits = self._take(slots, np.concatenate(rows), times)
        return dict(zip(slots, np.split(logits, np.cumsum(times)[:-1]), strict=True))

    def _take(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        """Take checked tokens, `times` of them in each of `slots`, which lie in `ids` one after the other -> [T, V]."""
        ends = [self._positions[slot] + time for slot, time in zip(slots, times, strict=True)]
        self._check_room(slots, ends)
        logits = self._advance(slots, ids, times)
        last = logits if len(logits) == len(slots) else logits[np.cumsum(times) - 1]
        self._positions.update(zip(slots, ends, strict=True))
        self._logits.update(zip(slots, last.copy(), strict=True))  # what is given is the caller's to change
        return logits

    def snapshot(self, slot: int) -> Snapshot:
        """A copy of a slot's state, as of a session with one sequence."""
        self._checked_slots((slot,))
        return self._copy(slot)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Have a slot go on from a snapshot.

        Raises:
            StateError: it belongs to something else, or is of more than one sequence; the slot is left as it was.
        """
        self._checked_slots((slot,))
        self._load(slot, snapshot)
        self._positions[slot] = snapshot.position
        self._logits.pop(slot, None)
        if snapshot.logits is not None:
            self._logits[slot] = snapshot.logits[0].copy()

    def close(self) -> None:
        """Release all slots; the session stays open."""
        for slot in self.numbers:
            self.release(slot)

    def _checked_slots(self, slots: Iterable[int]) -> tuple[int, ...]:
        given = tuple(slots)
        for slot in given:
            if slot not in self._positions:
                raise InputError(f"no slot {slot} is in use: admit a sequence first")
        return given

    def _check_room(self, slots: tuple[int, ...], ends: Sequence[int]) -> None:
        capacity = self.session.capacity
        if capacity is None or max(ends) <= capacity:
            return
        slot, end = next((slot, end) for slot, end in zip(slots, ends, strict=True) if end > capacity)
        position = self._positions[slot]
        raise CapacityError(
            f"slot {slot}: {end - position} more positions after {position} exceed the capacity of {capacity}: "
            "release it, or use a model with more positions"
        )

    @abstractmethod
    def _open(self, slot: int) -> None:
        """Set up a fresh sequence."""

    @abstractmethod
    def _close(self, slot: int) -> None:
        """Free what a slot takes."""

    @abstractmethod
    def _advance(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        """Run checked tokens, as :meth:`_take`; on an error, leave all slots as they were."""

    @abstractmethod
    def _copy(self, slot: int) -> Snapshot:
        """Give a slot's state."""

    @abstractmethod
    def _load(self, slot: int, snapshot: Snapshot) -> None:
        """Replace a slot's state; check it before changing anything."""


class SnapshotSlots(Slots):
    """Slots of any session: it takes them one after the other, going on from the snapshot of each.

    Bit-equal to sessions of their own. Every call copies the states of its slots.
    """

    def __init__(self, session: Stepping) -> None:
        super().__init__(session)
        self._states: dict[int, Snapshot] = {}

    @contextlib.contextmanager
    def _keeping_own_state(self) -> Iterator[Stepping]:
        """The session, whose own state comes back afterwards."""
        own = self.session.snapshot()
        try:
            yield self.session
        finally:
            self.session.restore(own)

    def _open(self, slot: int) -> None:
        with self._keeping_own_state() as session:
            session.reset(1)
            self._states[slot] = session.snapshot()

    def _close(self, slot: int) -> None:
        del self._states[slot]

    def _advance(self, slots: tuple[int, ...], ids: IntArray, times: tuple[int, ...]) -> FloatArray:
        given: list[FloatArray] = []
        states: dict[int, Snapshot] = {}
        with self._keeping_own_state() as session:
            for slot, row in zip(slots, np.split(ids, np.cumsum(times)[:-1]), strict=True):
                session.restore(self._states[slot])
                given.append(session.step(row) if len(row) == 1 else session.prefill(row[None])[0])
                states[slot] = session.snapshot()
        self._states |= states
        return np.concatenate(given)

    def _copy(self, slot: int) -> Snapshot:
        return self._states[slot]

    def _load(self, slot: int, snapshot: Snapshot) -> None:
        check_single(snapshot)
        with self._keeping_own_state() as session:
            session.restore(snapshot)
            self._states[slot] = session.snapshot()


def check_single(snapshot: Snapshot) -> None:
    """Check that a snapshot is of one sequence.

    Raises:
        StateError: it is of several.
    """
    if snapshot.batch != 1:
        raise StateError(f"the state is of {snapshot.batch} sequences: a slot holds one")
