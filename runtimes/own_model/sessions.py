"""The functions of a user's model as sessions: `recurrent` steps, `parallel` computes everything anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import InputError, StateError
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.step_cell import StepCell
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.exclusive import exclusive
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray, Snapshot
from causalrn.runtimes.torch_sessions import HistorySession, watched_streams
from causalrn.training.card import ModelCard


class TreeStore:
    """The tensors of a state as PyTorch has them.

    Args:
        cell: whose state it is.

    Attributes:
        irregular: by tensor that once had another shape than the contract says, what was seen, in words.
        windows: by tensor that grew and then kept its size, the number of rows that it keeps.
    """

    def __init__(self, cell: StepCell) -> None:
        self._cell = cell
        self.tensors: list[Tensor] = []
        self.irregular: dict[str, str] = {}
        self.windows: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self.clear(1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of logits: float64 for a reference."""
        return np.dtype(np.float64 if self._cell.dtype == torch.float64 else np.float32)

    def clear(self, batch: int) -> None:
        """A fresh state."""
        with torch.inference_mode():
            self.tensors = self._cell.fresh(batch)
        pairs = zip(self._cell.spec.tensors, self.tensors, strict=True)
        self._first_rows = {entry.name: t.shape[entry.growth_axis] for entry, t in pairs if entry.is_pool}
        self._batch = batch

    def reserve(self, rows: int) -> None:
        """Nothing: the model makes its own room."""

    def views(self, position: int, pad_rows: int) -> list[Tensor]:
        """The tensors themselves."""
        return self.tensors

    def update(self, position: int, outputs: Sequence[Tensor]) -> None:
        """Take over the next state."""
        self.tensors = list(outputs)

    def note_shapes(self, position: int) -> None:
        """Remember where a tensor first has another shape than its contract says, and whether it keeps its last rows.

        A window is as long as where it first stopped growing, from then on and in every run.
        """
        for entry, tensor in zip(self._cell.spec.tensors, self.tensors, strict=True):
            wanted, name = self._shape(entry, position), entry.name
            before, rows = self._rows.get(name, 0), tensor.shape[entry.growth_axis] if entry.is_pool else 0
            self._rows[name] = rows
            if name not in self.irregular and tuple(tensor.shape) != wanted:
                self.irregular[name] = f"{list(tensor.shape)} after {position} tokens, not {list(wanted)}"
                if entry.is_pool and 0 < rows < position and before <= rows:
                    self.windows[name] = rows
            elif name in self.windows and rows != min(self.windows[name], wanted[entry.growth_axis]):
                del self.windows[name]

    def _shape(self, entry: StateTensor, position: int) -> tuple[int, ...]:
        """What its contract says of a tensor; where it grows, it may have begun with some rows."""
        return entry.given(batch=self._batch, rows=self._first_rows.get(entry.name, 0) + position)

    def mark(self) -> list[Tensor]:
        """See :meth:`~causalrn.runtimes.state_buffers.StateBuffers.mark`."""
        return list(self.tensors)

    def truncate(self, position: int, mark: Sequence[Tensor]) -> None:
        """Go back to a mark."""
        self.tensors = list(mark)

    def copies(self, position: int) -> dict[str, Array]:
        """Copies by name; bfloat16 as float32."""
        names = (entry.name for entry in self._cell.spec.tensors)
        return {name: to_array(tensor) for name, tensor in zip(names, self.tensors, strict=True)}

    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None:
        """Replace everything by a snapshot's tensors.

        Raises:
            StateError: a tensor is missing or left over, or has another number of axes.
        """
        if tensors.keys() != {entry.name for entry in self._cell.spec.tensors}:
            raise StateError(f"the state holds {sorted(tensors)[:3]}..., this model's tensors have other names")
        loaded, self._batch = [], batch
        for entry, old in zip(self._cell.spec.tensors, self.tensors, strict=True):
            value = tensors[entry.name]
            wanted = self._shape(entry, position)
            if value.shape != wanted and entry.name not in self.irregular:
                raise StateError(f"state tensor {entry.name} is {list(value.shape)}, expected {list(wanted)}")
            loaded.append(torch.from_numpy(np.array(value)).to(old.dtype))
        self.tensors = loaded


def to_array(tensor: Tensor) -> Array:
    """A copy as numpy has it; bfloat16 as float32."""
    value = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    array: Array = value.numpy(force=True).copy()
    return array


class StepSession(CellSession):
    """The step of a user's model, and its prefill where it has one.

    Args:
        cell: what runs; several sessions may share it.
        card: of the model.
    """

    runtime = "recurrent"

    def __init__(self, cell: StepCell, card: ModelCard, owner: str = "") -> None:
        self.store = TreeStore(cell)
        super().__init__(card, cell.spec, owner, prefill_chunk=1 << 20, store=self.store)
        self.cell = cell

    def _run(self, tokens: IntArray, position: int, state: Sequence[Tensor]) -> tuple[FloatArray, Sequence[Tensor]]:
        given = torch.from_numpy(tokens), torch.tensor(position)
        with torch.inference_mode():
            if self._probed is None:
                logits, *outputs = self.cell(*given, *state)
            else:
                with watched_streams(self._blocks()) as calls:
                    logits, *outputs = self.cell(*given, *state)
                self._probed.append(joined_streams(calls, len(tokens)))
            outputs = [output.detach() for output in outputs]
        self._note(position + tokens.shape[1], outputs)
        return numbers(logits), outputs

    def _note(self, position: int, outputs: Sequence[Tensor]) -> None:
        before = self.store.tensors
        self.store.tensors = list(outputs)
        self.store.note_shapes(position)
        self.store.tensors = before

    def _blocks(self) -> list[nn.Module]:
        blocks = self.cell.forms.blocks
        assert blocks, "asked for blocks of a model that names none"
        return list(blocks)

    def _set_probing(self, on: bool) -> None:
        if not self.cell.forms.blocks:
            super()._set_probing(on)

    @exclusive
    def restore(self, snapshot: Snapshot) -> None:
        """See :meth:`~causalrn.runtimes.session.Session.restore`; infinity may stand where a fresh state has it."""
        infinite = self._as_fresh(snapshot)
        finite = {name: np.where(places, 0, snapshot.tensors[name]) for name, places in infinite.items()}
        super().restore(replace(snapshot, tensors={**snapshot.tensors, **finite}))
        if infinite:
            self.store.load(snapshot.tensors, snapshot.position, snapshot.batch)

    def _as_fresh(self, snapshot: Snapshot) -> dict[str, Array]:
        """By tensor, where it holds the infinity that it begins with, as a running maximum does; no other tensors."""
        floats = {name: value for name, value in snapshot.tensors.items() if value.dtype.kind == "f"}
        if all(np.isfinite(value).all() for value in floats.values()) or snapshot.batch < 1:
            return {}
        with torch.inference_mode():
            fresh = {
                entry.name: to_array(tensor)
                for entry, tensor in zip(self.spec.tensors, self.cell.fresh(snapshot.batch), strict=True)
            }
        same = {name: value for name, value in floats.items() if name in fresh and fresh[name].shape == value.shape}
        places = {name: np.isinf(value) & (value == fresh[name]) for name, value in same.items()}
        return {name: where for name, where in places.items() if where.any()}


def joined_streams(calls: Sequence[Sequence[Tensor]], batch: int) -> list[FloatArray]:
    """What blocks read in the calls of one prefill, N + 1 arrays [B, T, E]; a step may leave out the axis of time."""
    joined = []
    for parts in zip(*calls, strict=True):
        rows = [part[:, None] if part.ndim == 2 else part for part in parts]
        if any(row.ndim != 3 or len(row) != batch for row in rows):
            shape = list(rows[0].shape)
            raise InputError(
                f"`blocks` read {shape}: name modules that read [B, T, E], and [B, E] or [B, 1, E] in step"
            )
        joined.append(numbers(torch.cat(rows, dim=1)))
    return joined


def numbers(logits: Tensor) -> FloatArray:
    """Logits as numpy has them: float64 stays, all else is float32."""
    wide = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
    array: FloatArray = wide.numpy(force=True)
    return array


class WholeSession(HistorySession):
    """The parallel form of a user's model."""

    def __init__(self, forms: RecurrentForms, card: ModelCard, owner: str = "") -> None:
        super().__init__(card, owner, None)
        self._forms = forms

    def _forward(self, tokens: IntArray) -> FloatArray:
        return forward(self._forms, tokens)

    def _forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        return forward_with_streams(self._forms, tokens)


def forward(forms: RecurrentForms, tokens: IntArray) -> FloatArray:
    """The parallel form: [B, T] -> [B, T, V]."""
    with torch.inference_mode():
        return numbers(forms.whole(torch.from_numpy(tokens)))


def forward_with_streams(forms: RecurrentForms, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
    """The same, and what each block reads, and last the head; nothing where no blocks are named."""
    if not forms.blocks:
        return forward(forms, tokens), []
    with watched_streams(list(forms.blocks)) as calls:
        logits = forward(forms, tokens)
    return logits, joined_streams(calls, len(tokens))


def step_through(forms: RecurrentForms, tokens: IntArray, *, tell: bool = True) -> FloatArray:
    """The step over [B, T] -> [B, T, V]; without `tell` it is not told its position where it may find it out."""
    rows: list[Tensor] = []
    with torch.inference_mode():
        state = forms.initial(len(tokens))
        for step in range(tokens.shape[1]):
            position = torch.tensor(step) if tell else None
            logits, state = forms.step_once(torch.from_numpy(tokens[:, step].copy()), state, position)
            rows.append(logits)
    return numbers(torch.stack(rows, dim=1))


def state_bytes(spec: StateSpec, tokens: int) -> int:
    """Bytes of one sequence's state after so many tokens."""
    return sum(entry.item_bytes * math.prod(entry.given(batch=1, rows=tokens)) for entry in spec.tensors)
