"""Models that causalrn-export wrote as C, by ctypes: needs their shared library and Python 3.9, nothing else.

    from crn import Library

    with Library("build/libcausalrn.so").open("weights.bin") as model, model.session() as session:
        slot = session.admit()
        logits = session.prefill(slot, [0, 3, 4, 5, 1])[-1]

Calls raise CrnError, with the code and its words; one that fails has changed nothing. A model may be used by any number
of threads, a session by one at a time. docs/c-library.md of the toolkit has the interface, crn_api.h every function.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = 1
BEST, PORTABLE, AVX2, AVX512 = -1, 0, 1, 2
OK = 0

_handle, _place, _text = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p
_int, _int32, _size = ctypes.c_int, ctypes.c_int32, ctypes.c_size_t


class CrnError(Exception):
    """A call that failed.

    Attributes:
        code: as crn_api.h numbers them.
        slots: those that failed, of several.
    """

    def __init__(self, code: int, words: str, slots: Sequence[int] = ()) -> None:
        super().__init__(words)
        self.code, self.slots = code, tuple(slots)


class Info(ctypes.Structure):
    """What a model is: crn_info."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("model", ctypes.c_uint32),
        ("vocabulary", _int32),
        ("capacity", _int32),
        ("blocks", _int32),
        ("hidden", _int32),
        ("has_pool", _int32),
        ("kernel", _int32),
        ("state_bytes", ctypes.c_uint64),
        ("position_bytes", ctypes.c_uint64),
        ("weights_bytes", ctypes.c_uint64),
        ("prefix", _text),
        ("checkpoint", _text),
        ("arithmetic", _text),
        ("alphabet", _text),
        ("kernel_name", _text),
    ]


class _Request(ctypes.Structure):
    _fields_ = [("slot", _int32), ("time", _int32), ("tokens", _place), ("logits", _place), ("code", _int32)]


_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "open_file": (_int, _text, ctypes.POINTER(_handle)),
    "open_memory": (_int, _place, _size, ctypes.POINTER(_handle)),
    "open_inline": (_int, ctypes.POINTER(_handle)),
    "close": (None, _handle),
    "info": (_int, _handle, ctypes.POINTER(Info)),
    "kernel": (_int, _handle, _int),
    "open": (_int, _handle, _int32, ctypes.POINTER(_handle)),
    "close_session": (None, _handle),
    "admit": (_int, _handle, ctypes.POINTER(_int32)),
    "release": (_int, _handle, _int32),
    "reset": (_int, _handle, _int32),
    "copy": (_int, _handle, _int32, ctypes.POINTER(_int32)),
    "position": (_int, _handle, _int32, ctypes.POINTER(_int32)),
    "logits": (_int, _handle, _int32, _place),
    "memory": (_size, _handle),
    "step": (_int, _handle, _int32, _int32, _place),
    "prefill": (_int, _handle, _int32, _place, _int32, _place),
    "step_many": (_int, _handle, ctypes.POINTER(_Request), _int32),
    "save": (_int, _handle, _int32, _text),
    "load": (_int, _handle, _int32, _text),
    "save_memory": (_int, _handle, _int32, _place, ctypes.POINTER(_size)),
    "load_memory": (_int, _handle, _int32, _place, _size),
    "message": (_text, _int),
}


class _Api(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        *((name, ctypes.CFUNCTYPE(*types)) for name, types in _FUNCTIONS.items()),
    ]


class Library:
    """A model's shared library.

    Args:
        path: of the library.
        prefix: with which it was exported; taken from the library's name if it is None.

    Raises:
        OSError: it cannot be loaded. CrnError: it has no functions of this prefix and version.
    """

    def __init__(self, path: str | os.PathLike[str], prefix: str | None = None) -> None:
        place = Path(path).absolute()
        name = place.name.partition(".")[0]
        self.prefix = (name[3:] if name.startswith("lib") else name) if prefix is None else prefix
        self._library = ctypes.CDLL(os.fspath(place))
        function = getattr(self._library, f"{self.prefix}_api", None)
        if function is None:
            raise CrnError(-1, f"{path} has no function {self.prefix}_api: give the prefix that it was exported with")
        function.restype, function.argtypes = ctypes.POINTER(_Api), []
        self.api = function().contents
        if self.api.version < VERSION or self.api.size < ctypes.sizeof(_Api):
            raise CrnError(-1, f"{path} has version {self.api.version} of crn_api.h, and this file needs {VERSION}")

    def check(self, code: int) -> None:
        """Raise what a code means, unless it is OK."""
        if code != OK:
            raise CrnError(code, self.api.message(code).decode())

    def open(self, weights: str | os.PathLike[str] | bytes | None = None) -> Model:
        """A model of a weights file, of its content, or None: of the weights that are compiled in."""
        handle = _handle()
        if weights is None:
            self.check(self.api.open_inline(handle))
        elif isinstance(weights, bytes):
            self.check(self.api.open_memory(weights, len(weights), handle))
        else:
            self.check(self.api.open_file(os.fsencode(weights), handle))
        return Model(self, handle)


class Model:
    """Weights, and the kernel that reads them."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.library = library
        self._handle: ctypes.c_void_p | None = handle

    @property
    def info(self) -> Info:
        """What it is."""
        info = Info(ctypes.sizeof(Info))
        self.library.check(self.library.api.info(self._handle, info))
        return info

    def use_kernel(self, kernel: int = BEST) -> int:
        """Have sessions that are opened from now on use a kernel; gives which: no more than the machine has."""
        return int(self.library.api.kernel(self._handle, kernel))

    def session(self, capacity: int = 0) -> Session:
        """A session whose slots hold at most so many positions; 0: as many as the model has."""
        handle = _handle()
        self.library.check(self.library.api.open(self._handle, capacity, handle))
        return Session(self, handle)

    def close(self) -> None:
        """Free the weights; its sessions are closed before."""
        if self._handle:
            self.library.api.close(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session:
    """Slots: sequences of one model, each at its own position."""

    def __init__(self, model: Model, handle: ctypes.c_void_p) -> None:
        self.model = model
        self._handle: ctypes.c_void_p | None = handle
        self._api, self._check = model.library.api, model.library.check
        self._vocabulary = model.info.vocabulary

    def admit(self) -> int:
        """A slot with a fresh sequence."""
        slot = _int32()
        self._check(self._api.admit(self._handle, slot))
        return slot.value

    def copy(self, slot: int) -> int:
        """A new slot with the state of another one."""
        made = _int32()
        self._check(self._api.copy(self._handle, slot, made))
        return made.value

    def release(self, slot: int) -> None:
        """End a sequence; the slot's number comes again."""
        self._check(self._api.release(self._handle, slot))

    def reset(self, slot: int) -> None:
        """Forget what a slot holds."""
        self._check(self._api.reset(self._handle, slot))

    def position(self, slot: int) -> int:
        """Tokens that a slot has taken."""
        position = _int32()
        self._check(self._api.position(self._handle, slot, position))
        return position.value

    @property
    def memory_bytes(self) -> int:
        """What all slots take."""
        return int(self._api.memory(self._handle))

    def logits(self, slot: int) -> array[float]:
        """Logits after a slot's last token."""
        row = array("f", bytes(4 * self._vocabulary))
        self._check(self._api.logits(self._handle, slot, row.buffer_info()[0]))
        return row

    def step(self, slot: int, token: int) -> array[float]:
        """Take one token; gives the logits of what comes next."""
        return self.prefill(slot, [token])[0]

    def prefill(self, slot: int, tokens: Sequence[int]) -> list[array[float]]:
        """Take tokens; gives logits after each of them."""
        return self.step_many({slot: tokens})[slot]

    def step_many(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, list[array[float]]]:
        """Take tokens of any number of slots, weights being read once for many; gives logits after each of them.

        Raises:
            CrnError: some failed, and have taken nothing; the others have taken theirs.
        """
        requests = (_Request * len(tokens))()
        kept = []
        for request, (slot, ids) in zip(requests, tokens.items()):  # noqa: B905 - Python 3.9 knows no `strict`
            given, logits = array("i", ids), array("f", bytes(4 * len(ids) * self._vocabulary))
            kept.append((slot, given, logits))
            request.slot, request.time = slot, len(given)
            request.tokens, request.logits = given.buffer_info()[0], logits.buffer_info()[0]
        code = self._api.step_many(self._handle, requests, len(requests))
        if code != OK:
            failed = [request.slot for request in requests if request.code != OK]
            raise CrnError(code, self._api.message(code).decode(), failed)
        width = self._vocabulary
        return {slot: [rows[i : i + width] for i in range(0, len(rows), width)] for slot, _, rows in kept}

    def save(self, slot: int, path: str | os.PathLike[str]) -> None:
        """Write a slot's state to a file, whole or not at all."""
        self._check(self._api.save(self._handle, slot, os.fsencode(path)))

    def load(self, slot: int, path: str | os.PathLike[str]) -> None:
        """Go on from a state file, of this library or another one of the same checkpoint."""
        self._check(self._api.load(self._handle, slot, os.fsencode(path)))

    def save_bytes(self, slot: int) -> bytes:
        """What :meth:`save` writes."""
        size = _size()
        self._check(self._api.save_memory(self._handle, slot, None, size))
        content = ctypes.create_string_buffer(size.value)
        self._check(self._api.save_memory(self._handle, slot, content, size))
        return content.raw

    def load_bytes(self, slot: int, content: bytes) -> None:
        """What :meth:`load` reads."""
        self._check(self._api.load_memory(self._handle, slot, content, len(content)))

    def close(self) -> None:
        """Free all slots."""
        if self._handle:
            self._api.close_session(self._handle)
            self._handle = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
