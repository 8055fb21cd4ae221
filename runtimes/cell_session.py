"""What all runtimes of the recurrent cell share: buffers, chunked prefill, all-or-nothing updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.runtimes.cell_slots import CellSlots
from causalrn.runtimes.checks import check_finite
from causalrn.runtimes.exclusive import exclusive
from causalrn.runtimes.session import Session
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.state_buffers import StateBuffers
from causalrn.training.card import ModelCard

_Run = Callable[[IntArray, int, Sequence[Any]], tuple[FloatArray, Sequence[Any]]]

_PAIR_BYTES = 6 << 20
"""Largest temporary of a prefill chunk, T * t * B * H * 4 bytes: beyond it pairs fall out of the cache."""


class StateStore(Protocol):
    """Where the tensors of a state lie; :class:`StateBuffers` explains the methods.

    What `views` gives goes into a graph, and what comes out of it to `update`: arrays, or places on a device.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what the state contract has in float32."""

    def clear(self, batch: int) -> None: ...
    def reserve(self, rows: int) -> None: ...
    def views(self, position: int, pad_rows: int) -> Sequence[Any]: ...
    def update(self, position: int, outputs: Sequence[Any]) -> None: ...
    def mark(self) -> Any: ...
    def truncate(self, position: int, mark: Any) -> None: ...
    def copies(self, position: int) -> dict[str, Array]: ...
    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None: ...


class CellSession(Session):
    """A session over a recurrent cell; a subclass runs one graph.

    Args:
        card, capacity, owner: as for :class:`Session`.
        spec: the state contract.
        prefill_chunk: most tokens given to the prefill graph at once.
        dtype: of logits, and of what the state contract has in float32.
        store: where the state lies; numpy arrays of `dtype` unless another one is given.
    """

    def __init__(
        self,
        card: ModelCard,
        spec: StateSpec,
        owner: str | StateOrigin,
        *,
        prefill_chunk: int,
        dtype: npt.DTypeLike = np.float32,
        store: StateStore | None = None,
    ) -> None:
        super().__init__(card, spec.capacity, owner)
        self.spec = spec
        self.prefill_chunk = prefill_chunk
        self._buffers: StateStore = StateBuffers(spec, dtype) if store is None else store

    @abstractmethod
    def _run(self, tokens: IntArray, position: int, state: Sequence[Any]) -> tuple[FloatArray, Sequence[Any]]:
        """Run the graph for T tokens: logits [B, T, V] and the outputs in the order of the contract.

        It must not write to `state`, nor to an earlier call's outputs: a prefill that fails goes back to them.
        """

    def _run_step(self, tokens: IntArray, position: int, state: Sequence[Any]) -> tuple[FloatArray, Sequence[Any]]:
        """:meth:`_run` for a step by itself: only `state` has to stay as it is."""
        return self._run(tokens, position, state)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of logits, and of what the state contract has in float32."""
        return self._buffers.dtype

    @property
    def executed_files(self) -> tuple[str, ...]:
        """Files of the bundle that it has executed; none where it cannot tell."""
        return ()

    def pad_rows(self, time: int) -> int:
        """Rows of zeros that the graph for T tokens expects behind a growing pool."""
        return self.spec.step_pad_rows if time == 1 else 0

    def new_store(self) -> StateBuffers:
        """A fresh state for one sequence, for :meth:`take_into`."""
        return StateBuffers(self.spec, self.dtype)

    def slots(self) -> Slots:
        """Sequences at positions of their own, one after the other; states in numpy are not copied to and fro."""
        return CellSlots(self) if isinstance(self._buffers, StateBuffers) else super().slots()

    @exclusive
    def take_into(self, store: StateStore, position: int, tokens: IntArray) -> FloatArray:
        """Take checked tokens [B, T] into a state that is another's to keep: logits [B, T, V].

        Raises:
            NonFiniteError: NaN or infinity came out; the state is as it was.
        """
        own = self._buffers, self._position, self._batch
        self._buffers, self._position, self._batch = store, position, len(tokens)
        try:
            return self._prefill(tokens)
        finally:
            self._buffers, self._position, self._batch = own

    def _advance(self, tokens: IntArray, *, single: bool) -> FloatArray:
        if single:
            logits, outputs = self._run_at(tokens, self._position, self._run_step)
            check_finite(logits)
            self._buffers.update(self._position, outputs)
            return logits
        return self._prefill(tokens)

    def _run_at(self, tokens: IntArray, position: int, run: _Run) -> tuple[FloatArray, Sequence[Array]]:
        time = tokens.shape[1]
        if self.capacity is None:
            self._buffers.reserve(position + time)
        return run(tokens, position, self._buffers.views(position, self.pad_rows(time)))

    def _prefill(self, tokens: IntArray) -> FloatArray:
        start, parts, taken = self._position, [], 0
        before = self._buffers.mark()
        try:
            while taken < tokens.shape[1]:
                position = start + taken
                chunk = tokens[:, taken : taken + self.next_chunk(position, tokens.shape[1] - taken)]
                logits, outputs = self._run_at(chunk, position, self._run)
                check_finite(logits)
                self._buffers.update(position, outputs)
                parts.append(logits)
                taken += chunk.shape[1]
        except BaseException:
            self._buffers.truncate(start, before)
            raise
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def next_chunk(self, position: int, left: int) -> int:
        """Tokens of the next chunk, of so many that are left; where a graph has one shape, all of it or a step.

        A prefill in parts that end where chunks do gives the bits of the whole one.
        """
        return min(left, self._chunk_at(position))

    def _chunk_at(self, position: int) -> int:
        """Most tokens of the next chunk: fewer as the pool grows, so that its pairs stay in the cache."""
        if not self.spec.has_pool or self.spec.is_own:
            return self.prefill_chunk
        row_bytes = self._batch * self.card.config.pair_width * self._buffers.dtype.itemsize
        rows = self.capacity if self.spec.pool == "fixed" and self.capacity is not None else position
        return max(1, min(self.prefill_chunk, _PAIR_BYTES // ((rows + self.prefill_chunk) * row_bytes)))

    def _record_streams(self, streams: Sequence[Array]) -> None:
        """Keep what a graph showed of the residual stream, [T * B, E] each, rows time-major."""
        assert self._probed is not None
        by_row = [stream.reshape(-1, self._batch, stream.shape[-1]).swapaxes(0, 1) for stream in streams]
        self._probed.append(by_row)

    def _clear(self, batch: int) -> None:
        self._buffers.clear(batch)

    def _copy_state(self) -> dict[str, Array]:
        return self._buffers.copies(self._position)

    def _load_state(self, snapshot: Snapshot) -> None:
        self._buffers.load(snapshot.tensors, snapshot.position, snapshot.batch)
