"""A C bundle as a session: its source, compiled on this machine, called without copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import BundleError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.exclusive import exclusive
from causalrn.runtimes.native.library import NativeLibrary
from causalrn.runtimes.native.native_slots import NativeSlots
from causalrn.runtimes.native.native_state import NativeState, Tensors
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.slots import Slots, SnapshotSlots
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.state_buffers import aligned_zeros
from causalrn.training.card import card_of


class NativeSession(CellSession):
    """A C bundle, compiled and loaded into this process: open only bundles that you would run as programs.

    Args:
        bundle: opened, its hashes checked.
        threads: for pools of more than 512 rows; results do not depend on it.
        isa: one of :data:`causalrn.runtimes.native.library.ISAS`; None takes the best that this machine has.
        flags: of the compiler, after all others.

    Attributes:
        native: what the manifest says of the source.
        isa: the instruction set in use.
        threads: how many there are.

    Raises:
        RuntimeUnavailableError: there is no compiler, or what it makes cannot be loaded.
        BundleError: a bundle of another kind, or one that does not fit its manifest.
    """

    runtime = "native"

    def __init__(self, bundle: Bundle, *, threads: int = 1, isa: str | None = None, flags: Sequence[str] = ()) -> None:
        manifest = bundle.manifest
        if manifest.native is None:
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not C source")
        self.native = manifest.native
        self._library = NativeLibrary(bundle, self.native, flags=flags)
        self.isa = self._library.choose_isa(isa)
        self.threads = self._library.start_threads(threads)
        self._store = NativeState(manifest.state, card_of(bundle).block_config)
        self._placed: tuple[int, int] | None = None
        super().__init__(
            card_of(bundle),
            manifest.state,
            StateOrigin.of_bundle(bundle),
            prefill_chunk=manifest.prefill_chunk,
            store=self._store,
        )

    def memory_bytes(self, batch: int, capacity: int) -> tuple[int, int]:
        """Bytes that C takes for state and work together, and for work alone."""
        return self._library.session_bytes(batch, capacity), self._library.work_bytes(batch, capacity)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """What is compiled and loaded, threads aside."""
        return self.native.cell_files

    def pad_rows(self, time: int) -> int:
        """None: C writes new rows itself."""
        return 0

    def _chunk_at(self, position: int) -> int:
        """C blocks a prefill itself; it shows streams of one of its blocks at a time."""
        return self.prefill_chunk if self._probed is None else max(1, self._library.rows // self._batch)

    def _advance(self, tokens: IntArray, *, single: bool) -> FloatArray:
        """A step goes straight to C, which checks its logits itself; everything else the common way."""
        if not single or self._probed is not None:
            return super()._advance(tokens, single=single)
        store, position = self._store, self._position
        if self.capacity is None:
            store.reserve(position + 1)
        past, target = store.arrays, store.target(reused=True)
        self._place(past)
        self._ids[...] = tokens
        self._library.step(position, past.addresses, target.addresses)
        store.update(position, target)
        return self._step_logits.copy()

    def _run(self, tokens: IntArray, position: int, state: Sequence[Any]) -> tuple[FloatArray, Sequence[Array]]:
        past, target = self._store.arrays, self._store.target(reused=False)
        self._place(past)
        (batch, time), config = tokens.shape, self.card.block_config
        ids, logits = tokens.astype(np.int32), np.empty((batch, time, config.vocabulary), np.float32)
        width = self._library.embedding
        streams = None if self._probed is None else np.empty((config.blocks + 1, batch * time, width), np.float32)
        self._library.prefill(
            position,
            past.addresses,
            target.addresses,
            tokens=ids.ctypes.data,
            time=time,
            logits=logits.ctypes.data,
            streams=None if streams is None else streams.ctypes.data,
        )
        if streams is not None:
            self._record_streams(list(streams[..., : config.embedding]))
        return logits, target

    def _place(self, state: Tensors) -> None:
        """Tell C about batch and capacity where they have changed."""
        rows = len(state[0]) if self.spec.has_pool else self.capacity or 1
        if self._placed == (self._batch, rows):
            return
        self._work = aligned_zeros((self._library.work_bytes(self._batch, rows),), np.uint8)
        self._ids = np.zeros((self._batch, 1), np.int32)
        self._step_logits = np.zeros((self._batch, 1, self.card.config.vocabulary), np.float32)
        addresses = (array.ctypes.data for array in (self._work, self._ids, self._step_logits))
        self._library.place(self._batch, rows, *addresses)
        self._placed = self._batch, rows

    def new_store(self) -> NativeState:
        """A fresh state for one sequence."""
        return NativeState(self.spec, self.card.block_config)

    @exclusive
    def step_many(self, requests: Array, work: int) -> None:
        """Take the tokens of several sequences, whose states are others' to keep.

        Raises:
            NonFiniteError: NaN or infinity came out of one of them.
        """
        self._library.step_many(requests, work)

    def slots(self) -> Slots:
        """Sequences at positions of their own, bit-equal to each alone; weights are read once for many of them."""
        return NativeSlots(self) if self._library.takes_many else SnapshotSlots(self)

    def _set_probing(self, on: bool) -> None:
        """Nothing to prepare: C writes streams wherever it is told to."""

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> NativeSession:
        """As the table of targets opens it."""
        return cls(bundle, threads=options.threads)

    def _release(self) -> None:
        """Free what C holds."""
        self._library.close()
        self._placed = None
