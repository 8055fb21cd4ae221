"""The interface of causalrn.h as programs use it: causalrn_load, _open, _reset, _step and _prefill, in guarded memory.

What it computes has to be bit for bit what the session computes. What it refuses it has to refuse with the code that
causalrn.h gives, and leave everything alone.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.native_spec import NativeSpec, padded_hidden
from causalrn.errors import CausalRNError
from causalrn.runtimes.native.guarded_memory import POISON, GuardedMemory
from causalrn.runtimes.native.library import ISAS, NativeLibrary
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of

_OK, _NOT_WEIGHTS, _ENDIANNESS, _VERSION, _MODEL, _TRUNCATED, _OVERSIZED, _DAMAGED = range(8)
_MISALIGNED, _TOO_SMALL, _WRONG_TOKEN, _FULL, _, _WRONG_SIZE = range(8, 14)
_POSITIONS = 40
_BATCHES = (1, 2, 33)
_SEQUENCES = 7


class InterfaceError(Exception):
    """What is wrong, in a few words."""


class InterfaceCheck:
    """The checks of one instruction set.

    Args:
        isa: one of :data:`causalrn.runtimes.native.library.ISAS`.
        flags: of the compiler, after all others.
    """

    def __init__(self, bundle: Bundle, native: NativeSpec, isa: str, flags: Sequence[str] = ()) -> None:
        self._bundle, self._native, self._isa, self._flags = bundle, native, isa, flags
        self._config, self._spec = card_of(bundle).block_config, bundle.manifest.state
        self._capacity = min(self._spec.capacity or _POSITIONS, _POSITIONS)

    def judge(self) -> tuple[bool, str]:
        """Whether all is right, and what is not, in a few words."""
        try:
            self.run()
        except (InterfaceError, CausalRNError) as fault:
            return False, str(fault)
        return True, ""

    def run(self) -> None:
        """Check everything.

        Raises:
            InterfaceError: something is wrong: the first thing.
        """
        self._library = NativeLibrary(self._bundle, self._native, flags=self._flags)
        try:
            if self._native.weights == "file":
                self._check_loading()
            self._check_refusals()
            for batch in _BATCHES:
                capacity = self._capacity if batch < max(_BATCHES) else min(3, self._capacity)
                self._check_batch(batch, capacity)
        finally:
            self._library.close()
        if self._library.takes_many:
            self._check_many()

    def _check_many(self) -> None:
        """Sequences at positions of their own by causalrn_step_many: each as alone, also where a pass ends in one."""
        time = self._capacity
        rows = np.random.default_rng(7).integers(0, self._config.vocabulary, (_SEQUENCES, time))
        with NativeSession(self._bundle, isa=self._isa, flags=self._flags) as session, session.slots() as slots:
            expected = []
            for row in rows:
                session.reset(1)
                expected.append(session.prefill(row[None])[0])
                slot = slots.admit()
                slots.prefill({slot: row[: min(slot + 1, time)]})
            for most in (1, 3, time):
                begin = {slot: slots.position(slot) for slot in slots.numbers if slots.position(slot) < time}
                given = slots.prefill({slot: rows[slot, at : at + most + slot % 2] for slot, at in begin.items()})
                for slot, logits in given.items():
                    self._same(expected[slot][begin[slot] :][: len(logits)], logits, "causalrn_step_many")

    def _check_batch(self, batch: int, capacity: int) -> None:
        tokens = np.random.default_rng(batch).integers(0, self._config.vocabulary, (batch, capacity))
        with NativeSession(self._bundle, isa=self._isa, flags=self._flags) as session:
            session.reset(batch)
            expected = np.stack([session.step(column) for column in tokens.T], axis=1)
        self._check_opened(tokens, expected)
        self._check_placed(tokens, expected)

    def _call(self, name: str, *arguments: int, gives: int = _OK) -> None:
        code = self._library.take_opened(name, *arguments)
        if code != gives:
            raise InterfaceError(f"causalrn_{name} gives code {code}, not {gives}")

    def _check_loading(self) -> None:
        content = np.fromfile(self._bundle.file(self._native.weights_name), np.uint8)
        for what, damaged, code in _damaged_files(content):
            file = GuardedMemory.holding(damaged, "the weights")
            if (given := self._library.take_opened("load", file.address, len(damaged))) != code:
                raise InterfaceError(f"causalrn_load of {what} gives code {given}, not {code}")
            if file.fault() or not np.array_equal(file.bytes, damaged):
                raise InterfaceError("causalrn_load writes into the weights")

    def _check_refusals(self) -> None:
        size = self._library.session_bytes(1, self._capacity)
        memory = GuardedMemory(size, "the memory of a session")
        place = memory.address
        refused = [
            ("too little memory", place, size - 1, 1, self._capacity, _TOO_SMALL),
            ("memory at an odd address", place + 1, size - 1, 1, self._capacity, _MISALIGNED),
            ("no sequences", place, size, 0, self._capacity, _WRONG_SIZE),
            ("no positions", place, size, 1, 0, _WRONG_SIZE),
        ]
        most = self._config.capacity
        if most is not None and self._config.positions == "learned":
            refused.append(("more positions than were learned", place, 1 << 40, 1, most + 1, _WRONG_SIZE))
        for what, address, room, batch, capacity, code in refused:
            given = self._library.take_opened("open", address, room, batch, capacity)
            if given != code or not memory.is_poisoned or memory.fault():
                raise InterfaceError(f"causalrn_open with {what} gives code {given}, not {code} alone")

    def _check_opened(self, tokens: IntArray, expected: FloatArray) -> None:
        """One piece of memory of exactly the size that causalrn_session_size says."""
        batch, time = tokens.shape
        memory = GuardedMemory(self._library.session_bytes(batch, time), "the memory of a session")
        self._call("open", memory.address, len(memory.bytes), batch, time)
        self._call("choose_isa", ISAS.index(self._isa), gives=ISAS.index(self._isa))
        runs = {"causalrn_open": [1] * time, "causalrn_reset": _uneven(time), "a second causalrn_reset": [time]}
        for number, (after, lengths) in enumerate(runs.items()):
            if number:
                self._call("reset")
            self._call("position", gives=0)
            self._refuse_tokens(batch)
            self._same(expected, self._take(tokens, lengths, memory), f"after {after}")
            if self._spec.has_pool or self._config.positions == "learned":
                self._refuse(tokens[:, :1], 1, _FULL, time)

    def _take(self, tokens: IntArray, lengths: Sequence[int], memory: GuardedMemory) -> FloatArray:
        """All tokens, in chunks: a step where a chunk is one token."""
        parts, taken = [], 0
        for length in lengths:
            ids = GuardedMemory.holding(tokens[:, taken : taken + length].astype(np.int32), "the tokens")
            shape = (len(tokens), length, self._config.vocabulary)
            logits = GuardedMemory(4 * int(np.prod(shape)), "the logits")
            if length == 1:
                self._call("step", ids.address, logits.address)
            else:
                self._call("prefill", ids.address, length, logits.address)
            taken += length
            self._call("position", gives=taken)
            _check_guards(memory, ids, logits)
            parts.append(logits.bytes.view(np.float32).reshape(shape).copy())
        return np.concatenate(parts, axis=1)

    def _refuse_tokens(self, batch: int) -> None:
        for wrong in (-1, self._config.vocabulary):
            tokens = np.zeros((batch, 1), np.int64)
            tokens[-1] = wrong
            self._refuse(tokens, 1, _WRONG_TOKEN, 0)
        self._refuse(np.zeros((batch, 1), np.int64), 0, _WRONG_SIZE, 0)

    def _refuse(self, tokens: IntArray, time: int, code: int, position: int) -> None:
        ids = GuardedMemory.holding(tokens.astype(np.int32), "the tokens")
        logits = GuardedMemory(4 * len(tokens) * self._config.vocabulary, "the logits")
        self._call("prefill", ids.address, time, logits.address, gives=code)
        if not logits.is_poisoned:
            raise InterfaceError(f"causalrn_prefill gives code {code}, and writes logits")
        self._call("position", gives=position)

    def _check_placed(self, tokens: IntArray, expected: FloatArray) -> None:
        """Every tensor of the state and the working memory between guards of their own."""
        batch, time = tokens.shape
        for lengths in ([1] * time, _uneven(time)):
            sets = [self._tensors(batch, time) for _ in range(1 if self._spec.has_pool else 2)]
            work = GuardedMemory(self._library.work_bytes(batch, time), "the working memory")
            self._library.choose_isa(self._isa)
            parts, position = [], 0
            for length in lengths:
                chunk = tokens[:, position : position + length]
                parts.append(self._take_placed(chunk, position, time, work, (sets[0], sets[-1])))
                sets, position = sets[::-1], position + length
                self._check_rows(sets[0], time, position)
            self._same(expected, np.concatenate(parts, axis=1), "in memory of its own")

    def _tensors(self, batch: int, capacity: int) -> list[GuardedMemory]:
        hidden, tensors = padded_hidden(self._config.heads, self._config.head_width), []
        for tensor in self._spec.tensors:
            rows = batch * (capacity if tensor.is_pool or tensor.is_scale else 1)
            size = rows * (1 if tensor.is_scale else hidden) * np.dtype(tensor.dtype).itemsize
            tensors.append(GuardedMemory(size, f"the state tensor {tensor.name}"))
            if not self._spec.has_pool:
                tensors[-1].bytes[...] = 0  # a fresh state
        return tensors

    def _take_placed(
        self,
        tokens: IntArray,
        position: int,
        capacity: int,
        work: GuardedMemory,
        sets: tuple[Sequence[GuardedMemory], Sequence[GuardedMemory]],
    ) -> FloatArray:
        """Tokens [B, T] from one set of tensors to another: logits [B, T, V]."""
        past, following = ((ctypes.c_void_p * len(tensors))(*(t.address for t in tensors)) for tensors in sets)
        ids = GuardedMemory.holding(tokens.astype(np.int32), "the tokens")
        logits = GuardedMemory(4 * tokens.size * self._config.vocabulary, "the logits")
        self._library.place(len(tokens), capacity, work.address, ids.address, logits.address)
        if tokens.shape[1] == 1:
            self._library.step(position, past, following)
        else:
            where = {"tokens": ids.address, "time": tokens.shape[1], "logits": logits.address, "streams": None}
            self._library.prefill(position, past, following, **where)
        _check_guards(work, ids, logits, *sets[0], *sets[1])
        return logits.bytes.view(np.float32).reshape(*tokens.shape, -1).copy()

    def _check_rows(self, tensors: Sequence[GuardedMemory], capacity: int, position: int) -> None:
        """Rows behind those that count have not been written."""
        for memory in tensors if self._spec.has_pool else ():
            rows = memory.bytes.reshape(capacity, -1)  # [capacity, bytes of all sequences]
            if (rows[position:] != POISON).any():
                raise InterfaceError(f"it writes rows of {memory.what} that are still to come")

    def _same(self, expected: FloatArray, given: FloatArray, when: str) -> None:
        if expected.tobytes() != given.tobytes():
            raise InterfaceError(f"{when}, batch {len(expected)}: other logits than the session's")


def _uneven(time: int) -> list[int]:
    """Chunks of 1, 2, ... that add up."""
    lengths: list[int] = []
    while (left := time - sum(lengths)) > 0:
        lengths.append(min(len(lengths) + 1, left))
    return lengths


def _check_guards(*memories: GuardedMemory) -> None:
    for memory in memories:
        if fault := memory.fault():
            raise InterfaceError(fault)


def _damaged_files(content: Array) -> Iterator[tuple[str, Array, int]]:
    """What is done to a weights file, the file, and the code that loading it has to give."""
    yield "the weights", content, _OK
    yield "a header alone", content[:63], _TRUNCATED
    yield "a file that is cut off", content[:-1], _TRUNCATED
    yield "a file that is too long", np.append(content, content[:4]), _OVERSIZED
    places = {
        "another format": (0, _NOT_WEIGHTS),
        "another version": (8, _VERSION),
        "a damaged header": (40, _DAMAGED),
        "a damaged weight": (64 + (len(content) - 64) // 2, _DAMAGED),
        "a damaged last byte": (len(content) - 1, _DAMAGED),
    }
    for what, (place, code) in places.items():
        damaged = content.copy()
        damaged[place] ^= 1
        yield what, damaged, code
    swapped = content.copy()
    swapped[4:8] = content[4:8][::-1]
    yield "weights for big-endian machines", swapped, _ENDIANNESS
    other = content.copy()
    other[12] ^= 1
    other[60:64] = np.frombuffer(zlib.crc32(other[:60].tobytes()).to_bytes(4, "little"), np.uint8)
    yield "another model's weights", other, _MODEL
