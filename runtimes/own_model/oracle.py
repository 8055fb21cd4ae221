"""The oracle of a user's model: copies of its functions in float64, and which of its forms is the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from causalrn.model.own.copying import copied, modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_probe import StateProbe
from causalrn.model.own.step_cell import StepCell
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.own_model.sessions import StepSession, forward, forward_with_streams
from causalrn.runtimes.own_model.watching import NarrowOperation, narrow_operations
from causalrn.runtimes.parity.oracle import Oracle
from causalrn.runtimes.parity.reference import Bounds, Run
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import ModelCard

Form = Literal["parallel", "recurrent"]
_ROUNDED = {torch.float64: torch.float32, torch.complex128: torch.complex64}


class OwnOracle(Oracle):
    """A user's model in float64.

    Args:
        forms: as given, in any dtype; copies are made, in evaluation mode.
        probe: of its state.
        card: of the model.

    Attributes:
        forms: the float64 copies.
        leads: which form gives the reference: "parallel", or "recurrent" where the parallel form cannot.
    """

    def __init__(self, forms: RecurrentForms, probe: StateProbe, card: ModelCard) -> None:
        self.leads: Form = "parallel"
        self.forms = _wide(forms)
        cell = StepCell(replace(self.forms, prefill=None), probe.tree, probe.spec, keeps_given=bool(probe.in_place))
        rounded_forms = replace(_wide(forms), prefill=None)
        with torch.no_grad():
            for module in modules_of(rounded_forms):
                for weight in (*module.parameters(), *module.buffers()):
                    if weight.dtype in _ROUNDED:
                        weight.copy_(weight.to(_ROUNDED[weight.dtype]))
        rounded = StepCell(rounded_forms, probe.tree, probe.spec, keeps_given=bool(probe.in_place))
        super().__init__(card, StepSession(cell, card), StepSession(rounded, card), rounded)

    def forward(self, tokens: IntArray) -> FloatArray:
        """See :meth:`Oracle.forward`; the recurrent form where that leads."""
        if self.leads == "recurrent":
            return self.stepped(tokens)
        return forward(self.forms, tokens)

    def forward_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        """See :meth:`Oracle.forward_with_streams`."""
        if self.leads == "recurrent":
            return self._stepped_with_streams(tokens)
        return forward_with_streams(self.forms, tokens)

    def stepped(self, tokens: IntArray) -> FloatArray:
        """The recurrent form in float64, step by step: [B, T] -> [B, T, V]."""
        return self._run(self.recurrent, tokens, []).logits

    def bounds_of_steps(self, tokens: IntArray, stepped: FloatArray) -> Bounds:
        """How far rounding may move the recurrent form's logits in float32, from these in float64."""
        return self._bounds(tokens, [], stepped, [], {})

    def bounds_of_whole(self, tokens: IntArray, whole: FloatArray) -> float:
        """The same for the parallel form, the largest of all positions: absolute; NaN where it cannot be told."""
        return float(self._parallel_bounds(tokens, whole, []).logits.max())

    def _stepped_with_streams(self, tokens: IntArray) -> tuple[FloatArray, list[FloatArray]]:
        if not self.forms.blocks:
            return self.stepped(tokens), []
        run = self._run(self.recurrent, tokens, [], probe=True)
        return run.logits, list(run.streams)

    def _check_recurrent(self, error: float, bound: float) -> None:
        """Whether the two forms agree was found out before: here the one that leads vouches for itself."""

    def _run(self, session: CellSession, tokens: IntArray, positions: Sequence[int], *, probe: bool = False) -> Run:
        return super()._run(session, tokens, positions, probe=probe and bool(self.forms.blocks))

    @property
    def irregular(self) -> dict[str, str]:
        """By tensor of the state that once had another shape than its contract says, what was seen, in words."""
        assert isinstance(self.recurrent, StepSession)
        store = self.recurrent.store
        return {name: words for name, words in store.irregular.items() if name not in store.windows}

    @property
    def windows(self) -> dict[str, int]:
        """By tensor of the state that keeps its last rows alone, how many."""
        assert isinstance(self.recurrent, StepSession)
        return self.recurrent.store.windows

    def states_after(self, tokens: IntArray) -> Mapping[str, Array]:
        """The recurrent form's state after all tokens [B, T]."""
        self.stepped(tokens)
        return self.recurrent.snapshot().tensors

    @property
    def narrow(self) -> tuple[NarrowOperation, ...]:
        """What either form computes in fewer bits than float64."""
        return tuple(dict.fromkeys((*self.narrow_whole, *self.narrow_steps)))

    @cached_property
    def narrow_whole(self) -> tuple[NarrowOperation, ...]:
        """What the parallel form computes in fewer bits."""
        return narrow_operations(lambda: forward(self.forms, self._few_tokens), modules_of(self.forms))

    @cached_property
    def narrow_steps(self) -> tuple[NarrowOperation, ...]:
        """What the step computes in fewer bits."""
        return narrow_operations(lambda: self.stepped(self._few_tokens), modules_of(self.forms))

    @property
    def _few_tokens(self) -> IntArray:
        return np.arange(6, dtype=np.int64).reshape(3, 2) % self.forms.vocabulary

    def state_dtypes(self) -> dict[str, str]:
        """By tensor of the state that the float64 copy carries in fewer bits, its dtype."""
        self.stepped(np.zeros((1, 2), np.int64))
        tensors = zip(self.recurrent.spec.tensors, self.recurrent.store.tensors, strict=True)  # type: ignore[attr-defined]
        narrow = (torch.float32, torch.float16, torch.bfloat16)
        return {entry.name: str(t.dtype).removeprefix("torch.") for entry, t in tensors if t.dtype in narrow}


def _wide(forms: RecurrentForms) -> RecurrentForms:
    """Copies in float64 and in evaluation mode."""
    wide = copied(forms, torch.float64)
    for module in modules_of(wide):
        module.eval()
    return wide
