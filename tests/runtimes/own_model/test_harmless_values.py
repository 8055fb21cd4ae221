"""What a model keeps outside its state, and on which nothing depends, is noted; all else fails (faulty_models.py)."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from causalrn import verify_recurrent
from tests.runtimes.own_model.faulty_models import Attention, E, Recurrence
from tests.runtimes.own_model.test_faults import blamed

LEVELS = ["contract", "logits", "split", "rows", "isolation", "reload"]


class Counting(Recurrence):
    """Counts its calls."""

    calls = 0

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.calls += 1
        return super().step(tokens, state)


class CountingOnClass(Recurrence):
    calls: ClassVar[list[int]] = [0]

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.calls[0] += 1
        return super().step(tokens, state)


class Lengthening(Recurrence):
    """Keeps a table of what positions give, and lengthens it where it is too short; here by nothing that counts."""

    table = torch.zeros(1)

    def step(self, tokens: Tensor, state: Any, position: Tensor | int = 0) -> tuple[Tensor, Any]:
        if len(self.table) <= int(position):
            self.table = torch.zeros(int(position) + 1)
        logits, after = super().step(tokens, state)
        return logits + self.table[int(position)], after


class Remembering(Attention):
    """A prefill leaves its last keys."""

    last: Tensor | None = None

    def prefill(self, tokens: Tensor, state: Any, position: Any = None, attention_mask: Any = None) -> Any:
        logits, after = super().prefill(tokens, state, position, attention_mask)
        self.last = after[0]["keys"].clone()
        return logits, after


@pytest.mark.parametrize("make", [Counting, CountingOnClass, Lengthening, Remembering])
def test_what_nothing_depends_on_is_noted(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    report = verify_recurrent(make().eval(), steps=8, levels=LEVELS).report
    assert report.passed, blamed(report)
    assert any("outside the state: nothing depends on it" in note for note in report.notes)


class Drifting(Recurrence):
    """Every call adds a little, and the same for all sequences."""

    calls: ClassVar[list[int]] = [0]

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        self.calls[0] += 1
        logits, after = super().step(tokens, state)
        return logits + 1e-2 * min(self.calls[0], 2), after


class Once(Recurrence):
    """The first prefill leaves what later ones add."""

    def prefill(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        rows = []
        for token in tokens.T:
            logits, state = self.step(token, state)
            rows.append(logits + self.added[0])
        self.added.append(self.added.pop() + 1e-2 * E)
        return torch.stack(rows, 1), state

    added: ClassVar[list[float]] = [0.0]


@pytest.mark.parametrize(("make", "name"), [(Drifting, "Drifting.calls"), (Once, "Once.added")])
def test_what_outputs_depend_on_fails_and_is_named(make: type[nn.Module], name: str) -> None:
    torch.manual_seed(0)
    report = verify_recurrent(make().eval(), steps=8, levels=["isolation"]).report
    assert not report.passed
    (result,) = report.results
    assert not result.passed
    assert result.tensor == name
