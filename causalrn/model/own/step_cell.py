"""The step of a user's model as a module with the interface of a recurrent cell: tokens, position, state tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalrn.bundle.state_spec import StateSpec
from causalrn.model.own.copying import modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_tree import StateTree, clone


class StepCell(nn.Module):
    """A step, or a prefill, of :class:`RecurrentForms`.

    Args:
        forms: whose functions run; modules behind them become submodules.
        tree: how their state is built.
        spec: its contract.
        keeps_given: whether functions are given copies of the state, for they change it in place.
    """

    def __init__(self, forms: RecurrentForms, tree: StateTree, spec: StateSpec, *, keeps_given: bool = False) -> None:
        super().__init__()
        self.forms, self.tree, self.spec = forms, tree, spec
        self._keeps_given = keeps_given
        self.behind = nn.ModuleList(modules_of(forms))

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the first parameter."""
        return next((parameter.dtype for parameter in self.behind.parameters()), torch.float32)

    def fresh(self, batch: int) -> list[Tensor]:
        """The tensors of a fresh state, its floating-point numbers as wide as the weights where these are float64."""
        tensors = clone(self.tree.flatten(self.forms.initial(batch), "initial_state"))
        wide = self.dtype == torch.float64
        return [tensor.double() if wide and tensor.dtype == torch.float32 else tensor for tensor in tensors]

    def forward(self, tokens: Tensor, position: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Advance by T tokens.

        Args:
            tokens: int64 [B, T].
            position: int64 scalar, tokens seen so far.
            state: one tensor per entry of ``spec.tensors``.

        Returns:
            Logits [B, T, V], then the tensors of the next state.
        """
        given = self.tree.unflatten(clone(state) if self._keeps_given else state)
        if tokens.shape[1] == 1:
            logits, after = self.forms.step_once(tokens[:, 0], given, position)
            return logits[:, None], *self.tree.flatten(after)
        if self.forms.prefill is not None:
            logits, after = self.forms.prefill_once(tokens, given, position)
            return logits, *self.tree.flatten(after, "prefill")
        rows = []
        for offset in range(tokens.shape[1]):
            logits, given = self.forms.step_once(tokens[:, offset], given, position + offset)
            rows.append(logits)
        return torch.stack(rows, dim=1), *self.tree.flatten(given)
