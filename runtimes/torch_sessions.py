"""PyTorch runtimes: `parallel` (the trained form, all positions anew at every call) and `recurrent` (the cell)."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import InputError, StateError
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import TransformerConfig
from causalrn.model.normalization import centre
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.checks import check_finite
from causalrn.runtimes.session import Session
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint, load_checkpoint
from causalrn.training.threads import torch_threads

_PREFILL_CHUNK, _FUSED_CHUNK = 32, 256
_PARALLEL_BYTES = 256 << 20
_NUMPY_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def open_parallel(path: Path, options: SessionOptions) -> ParallelSession:
    """The parallel form of a checkpoint folder, as the table of targets opens it."""
    checkpoint = load_checkpoint(path)
    threads = None if options.threads == 1 else options.threads
    return ParallelSession(checkpoint.model, checkpoint.card, _origin(checkpoint), threads=threads)


def open_recurrent(path: Path, options: SessionOptions) -> RecurrentSession:
    """The recurrent form of a checkpoint folder, as the table of targets opens it."""
    checkpoint = load_checkpoint(path)
    threads = None if options.threads == 1 else options.threads
    cell = RecurrentCell.from_model(checkpoint.model)
    return RecurrentSession(cell, checkpoint.card, _origin(checkpoint), threads=threads)


def _origin(checkpoint: Checkpoint) -> StateOrigin:
    """Of the recurrent form's states: its weights are folded as exporters fold them, its state is that of bundles."""
    return StateOrigin.of_weights(checkpoint.sha256, checkpoint.card.config.entries())


class HistorySession(Session):
    """A parallel form as a session: its state is the history of tokens, every call computes it anew.

    Args:
        card, capacity, owner: as for :class:`Session`.
        threads: inside one operator, during this session's calls only; None leaves PyTorch's setting alone.
    """

    runtime = "parallel"

    def __init__(self, card: ModelCard, owner: str | StateOrigin, threads: int | None) -> None:
        super().__init__(card, card.config.capacity, owner)
        self._threads = threads
        self._history = np.zeros((1, 0), np.int64)

    @abstractmethod
    def _forward(self, tokens: IntArray) -> FloatArray:
        """Logits [B, T, V] of whole sequences [B, T]."""

    @abstractmethod
    def _forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        """The same, and what each block reads, and last the head, [B, T, E] each."""

    def _advance(self, tokens: IntArray, *, single: bool) -> FloatArray:
        history = np.concatenate([self._history, tokens], axis=1)
        new = slice(-tokens.shape[1], None)
        with torch_threads(self._threads):
            if self._probed is None:
                logits = self._forward(history)[:, new]
            else:
                whole, streams = self._forward_with_streams(history)
                logits = whole[:, new]
                self._probed.append([stream[:, new] for stream in streams])
        check_finite(logits)
        self._history = history
        return logits

    def _set_probing(self, on: bool) -> None:
        pass

    def _clear(self, batch: int) -> None:
        self._history = np.zeros((batch, 0), np.int64)

    def _copy_state(self) -> dict[str, Array]:
        return {"tokens": self._history.copy()}

    def _load_state(self, snapshot: Snapshot) -> None:
        history = snapshot.tensors.get("tokens")
        if history is None or history.shape != (snapshot.batch, snapshot.position) or history.dtype != np.int64:
            raise StateError(
                "the state is not a history of tokens, and the parallel form computes everything anew from one: "
                "restore it in a runtime of the recurrent form"
            )
        self._history = history.astype(np.int64)


class ParallelSession(HistorySession):
    """The parallel form of a CausalRN or one of its baselines.

    Args:
        model: on any device, float32; or its float64 :meth:`SequenceModel.oracle`.
    """

    def __init__(
        self, model: SequenceModel, card: ModelCard, owner: str | StateOrigin = "", *, threads: int | None = None
    ) -> None:
        super().__init__(card, owner, threads)
        self._model = model.eval()

    def _forward(self, tokens: IntArray) -> FloatArray:
        return forward_in_batches(self._model, tokens)

    def _forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        return forward_with_streams(self._model, tokens)


def forward_in_batches(model: SequenceModel, tokens: IntArray) -> FloatArray:
    """The parallel form over any number of rows, a bounded amount of memory at a time: [B, T] -> [B, T, V]."""
    time, config = tokens.shape[1], model.config
    scores = config.heads * time if isinstance(config, TransformerConfig) else 0
    row_bytes = 8 * time * max(8 * config.hidden, config.vocabulary, 2 * scores)
    rows = max(1, _PARALLEL_BYTES // row_bytes)
    device = model.head.weight.device
    with torch.inference_mode():
        parts = [model(torch.from_numpy(part).to(device)).cpu().numpy() for part in _rows_of(tokens, rows)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rows_of(tokens: IntArray, rows: int) -> Iterator[IntArray]:
    for start in range(0, len(tokens), rows):
        yield tokens[start : start + rows]


def forward_with_streams(model: SequenceModel, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
    """The parallel form, and what each block reads from the residual stream, and last what the head reads.

    Returns:
        Logits [B, T, V], and N + 1 arrays [B, T, E]; centred over E where the norm is a layer norm, as in
        :attr:`Session.streams`.
    """
    with watched_streams(list(model.blocks)) as parts:
        logits = forward_in_batches(model, tokens)
    centred = model.config.norm == "layer"
    streams = [torch.cat([centre(x) if centred else x for x in rows]) for rows in zip(*parts, strict=True)]
    return logits, [stream.cpu().numpy() for stream in streams]


@contextlib.contextmanager
def watched_streams(blocks: Sequence[nn.Module]) -> Iterator[list[list[torch.Tensor]]]:
    """Record what goes into each block and out of the last one: a list of N + 1 tensors per call of the model."""
    calls: list[list[torch.Tensor]] = []

    def before(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if block is blocks[0]:
            calls.append([])
        calls[-1].append(next(value for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor)))

    def after_last(_: nn.Module, __: Any, output: Any) -> None:
        calls[-1].append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(after_last))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


class RecurrentSession(CellSession):
    """The recurrent cell in PyTorch on the CPU, in the cell's dtype.

    Args:
        threads: inside one operator, during this session's calls only; None leaves PyTorch's setting alone.
    """

    runtime = "recurrent"

    def __init__(
        self, cell: RecurrentCell, card: ModelCard, owner: str | StateOrigin = "", *, threads: int | None = None
    ) -> None:
        if cell.dtype not in _NUMPY_DTYPES:
            raise InputError(f"the recurrent runtime runs float32 and float64, not {cell.dtype}")
        dtype: npt.DTypeLike = _NUMPY_DTYPES[cell.dtype]
        chunk = _FUSED_CHUNK if cell.reads_fused else _PREFILL_CHUNK
        super().__init__(card, cell.spec, owner, prefill_chunk=chunk, dtype=dtype)
        self._cell, self._threads = cell, threads

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        with torch.inference_mode(), torch_threads(self._threads):
            tensors = [torch.from_numpy(array) for array in state]
            if self._probed is None:
                logits, *outputs = self._cell(torch.from_numpy(tokens), torch.tensor(position), *tensors)
            else:
                with watched_streams(list(self._cell.blocks)) as calls:
                    logits, *outputs = self._cell(torch.from_numpy(tokens), torch.tensor(position), *tensors)
                self._record_streams([stream.numpy() for stream in calls[0]])
            return logits.numpy(), [output.numpy() for output in outputs]

    def _chunk_at(self, position: int) -> int:
        return self.prefill_chunk if self._cell.reads_fused else super()._chunk_at(position)

    def _set_probing(self, on: bool) -> None:
        pass
