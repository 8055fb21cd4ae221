"""A bundle's compiled C, called through ctypes: addresses go in, nothing is copied."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.native_spec import INTERFACE, NativeSpec, padded, padded_hidden, renamed
from causalrn.bundle.state_spec import ITEM_BYTES
from causalrn.compiling.c_compiler import SourceError, shared_library
from causalrn.compiling.code_cache import CACHE_VARIABLE
from causalrn.compiling.processor import dot_product_flags
from causalrn.errors import BundleError, NonFiniteError, RuntimeUnavailableError
from causalrn.runtimes.checks import NON_FINITE
from causalrn.runtimes.state_buffers import aligned_zeros
from causalrn.training.card import card_of

ISAS = ("portable", "avx2", "avx512")
_OK, _NOT_FINITE, _BEST = 0, 12, -1
_DESCRIPTION, _STEPS_MANY, _ADDRESS_BYTES = 9, 2, 8


_FIELDS = {"position": "i4", "capacity": "i4", "time": "i4"} | dict.fromkeys(("tokens", "logits", "past", "next"), "u8")
REQUEST = np.dtype(list(_FIELDS.items()), align=True)
"""Tokens of one of several sequences: native_request of shim.c, on machines with addresses of 64 bits."""


class NativeLibrary:
    """The functions of shim.c for one session.

    Args:
        flags: of the compiler, after all others.

    Attributes:
        rows: of a prefill that are computed together.
        takes_many: whether one call can take tokens of several sequences.

    Raises:
        RuntimeUnavailableError: it cannot be compiled or loaded here.
        BundleError: the source or the weights do not fit the manifest.
    """

    def __init__(self, bundle: Bundle, native: NativeSpec, *, flags: Sequence[str] = ()) -> None:
        self._bundle = bundle
        self._library = _loaded(compiled_library(bundle, native, flags=flags))
        self.rows, header_version = self._checked()
        self.takes_many = header_version >= _STEPS_MANY and ctypes.sizeof(ctypes.c_void_p) == _ADDRESS_BYTES
        self._step = self._library.native_step
        self.embedding = padded(card_of(bundle).block_config.embedding)
        self._handle = self._library.native_create()
        if not self._handle:
            raise MemoryError
        self._free = weakref.finalize(self, self._library.native_free, self._handle)
        content = bundle.file(native.weights_name).read_bytes() if native.weights == "file" else b""
        self._weights = aligned_zeros((len(content),), np.uint8)
        self._weights[:] = np.frombuffer(content, np.uint8)
        self._raise_for(self._library.native_load(self._handle, self._weights.ctypes.data, len(content)))

    def _checked(self) -> tuple[int, int]:
        """Compare what was compiled with the manifest; gives rows computed together, and the header's version."""
        sizes = (ctypes.c_int32 * _DESCRIPTION)()
        self._library.native_describe(sizes)
        config, state = card_of(self._bundle).block_config, self._bundle.manifest.state
        interface, tensors, hidden, embedding, rows, vocabulary, blocks, pool_bits, header = sizes
        widths = (
            padded_hidden(config.heads, config.head_width),
            padded(config.embedding),
            config.vocabulary,
            config.blocks,
        )
        expected = (INTERFACE, len(state.tensors), *widths, 8 * ITEM_BYTES[state.pool_dtype])
        if (interface, tensors, hidden, embedding, vocabulary, blocks, pool_bits) != expected:
            raise BundleError(f"{self._bundle.path}: its C source is of another model than its manifest: export again")
        return int(rows), int(header)

    def choose_isa(self, name: str | None) -> str:
        """Have the best instruction set that this machine has used, or another one; gives its name."""
        return ISAS[self._library.native_choose_isa(self._handle, _BEST if name is None else ISAS.index(name))]

    def start_threads(self, threads: int) -> int:
        """Have so many threads for long pools, or as many as there can be; gives how many there are."""
        return int(self._library.native_start_threads(self._handle, threads))

    def session_bytes(self, batch: int, capacity: int) -> int:
        """Bytes of state and working memory; 0 where there is no such session."""
        return int(self._library.native_session_size(batch, capacity))

    def work_bytes(self, batch: int, capacity: int) -> int:
        """Bytes of working memory."""
        return int(self._library.native_work_size(batch, capacity))

    def place(self, batch: int, capacity: int, work: int, tokens: int, logits: int) -> None:
        """Say how many sequences and positions there are from now on.

        Args:
            work: address of working memory.
            tokens, logits: addresses of int32 [B] and float32 [B, V]: what steps read and write.

        Raises:
            RuntimeUnavailableError: the session has been closed.
        """
        if not self._free.alive:
            raise RuntimeUnavailableError(f"{self._bundle.path}: the session has been closed: open it again")
        self._library.native_place(self._handle, batch, capacity, work, tokens, logits)

    def step(self, position: int, past: Any, following: Any) -> None:
        """Take a step from the tensors `past` to the tensors `following`, given as arrays of addresses.

        Raises:
            NonFiniteError: NaN or infinity came out.
        """
        code = self._step(self._handle, position, past, following)
        if code != _OK:
            self._raise_for(code)

    def prefill(
        self, position: int, past: Any, following: Any, *, tokens: int, time: int, logits: int, streams: int | None
    ) -> None:
        """Run tokens [B, T]; the last three are addresses.

        Raises:
            NonFiniteError: NaN or infinity came out.
        """
        code = self._library.native_prefill(self._handle, position, past, following, tokens, time, logits, streams)
        self._raise_for(code)

    def step_many(self, requests: npt.NDArray[np.void], work: int) -> None:
        """Take the tokens of several sequences, as :data:`REQUEST`.

        Args:
            work: address of working memory for the longest of their pools.

        Raises:
            NonFiniteError: NaN or infinity came out of one of them.
        """
        self._raise_for(self._library.native_step_many(self._handle, requests.ctypes.data, len(requests), work))

    def take_opened(self, call: str, *arguments: Any) -> int:
        """Call a function of shim.c that begins with "opened_", for the session that `causalrn_open` set up itself."""
        return int(getattr(self._library, f"opened_{call}")(self._handle, *arguments))

    def _raise_for(self, code: int) -> None:
        if code == _OK:
            return
        if code == _NOT_FINITE:
            raise NonFiniteError(NON_FINITE)
        reason = self._library.native_message(code).decode()
        raise BundleError(f"{self._bundle.path}: {reason}: export the bundle again")

    def close(self) -> None:
        """Free what C holds, threads among it; the code stays loaded. What is not closed is freed with this object."""
        self._free()


def compiled_library(bundle: Bundle, native: NativeSpec, *, flags: Sequence[str] = ()) -> Path:
    """The shared library of a bundle's source, compiled unless that has been done before.

    Args:
        flags: after all others, e.g. "-DCAUSALRN_NO_VECTORS".

    Raises:
        RuntimeUnavailableError: there is no compiler, or it does not work.
        BundleError: the source cannot be compiled.
    """
    shim = renamed((files("causalrn.runtimes.native") / "shim.c").read_text(encoding="utf-8"), native.prefix)
    flags = [renamed(flag, native.prefix) for flag in flags]
    sources = {"shim.c": shim.encode()} | {name: bundle.file(name).read_bytes() for name in native.sources}
    try:
        # kernels for x86 are chosen as they run: there it takes no flags
        always = ("-fvisibility=hidden", "-lm", "-pthread", *dot_product_flags())
        return shared_library(sources, (*always, *flags), native.source)
    except SourceError as error:
        raise BundleError(f"{bundle.path}: {error}; see docs/native.md") from None


def _loaded(path: Path) -> Any:
    try:
        library = ctypes.CDLL(str(path))
        address, number = ctypes.c_void_p, ctypes.c_int32
        _declare(library.native_describe, None, [address])
        _declare(library.native_create, address, [])
        _declare(library.native_free, None, [address])
        _declare(library.native_load, ctypes.c_int, [address, address, ctypes.c_size_t])
        _declare(library.native_choose_isa, ctypes.c_int, [address, ctypes.c_int])
        _declare(library.native_start_threads, number, [address, number])
        _declare(library.native_session_size, ctypes.c_size_t, [number, number])
        _declare(library.native_work_size, ctypes.c_size_t, [number, number])
        _declare(library.native_place, None, [address, number, number, address, address, address])
        step = [address, number, address, address]
        _declare(library.native_step, ctypes.c_int, step)
        _declare(library.native_prefill, ctypes.c_int, [*step, address, number, address, address])
        _declare(library.native_step_many, ctypes.c_int, [address, address, number, address])
        _declare(library.native_message, ctypes.c_char_p, [ctypes.c_int])
        _declare(library.opened_open, ctypes.c_int, [address, address, ctypes.c_size_t, number, number])
        _declare(library.opened_reset, ctypes.c_int, [address])
        _declare(library.opened_position, number, [address])
        _declare(library.opened_choose_isa, ctypes.c_int, [address, ctypes.c_int])
        _declare(library.opened_step, ctypes.c_int, [address, address, address])
        _declare(library.opened_prefill, ctypes.c_int, [address, address, number, address])
        _declare(library.opened_load, ctypes.c_int, [address, address, ctypes.c_size_t])
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"{path}: compiled code that does not load ({error}): set {CACHE_VARIABLE} to another folder"
        ) from None
    return library


def _declare(function: Any, result: Any, arguments: Sequence[Any]) -> None:
    function.restype, function.argtypes = result, arguments
