"""What goes wrong late, or where nobody asked to look: it fails the model all the same."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from causalrn import verify_recurrent
from causalrn.runtimes.own_model import check
from causalrn.runtimes.parity.report import VerifyReport
from tests.runtimes.own_model.faulty_models import E, Recurrence, V

LAST, STEPS = 24, 8
Step = Recurrence.step


class Summing(nn.Module):
    """The parallel form sums over all tokens; the step keeps the last rows, or all, of what it sums over."""

    vocabulary = V

    def __init__(self, last: int | None = LAST) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.last = nn.Embedding(V, E), nn.Linear(E, V), last

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens).cumsum(1).sin())
        return logits

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        rows = torch.cat([state["rows"], self.embedding(tokens)[:, None]], 1)
        if self.last is not None:
            rows = rows[:, -self.last :]
        return self.head(rows.sum(1).sin()), {"rows": rows}

    def initial_state(self, batch: int) -> Any:
        return {"rows": self.embedding.weight.new_zeros(batch, 0, E)}


def verified(model: nn.Module, levels: list[str], drift_steps: int = 40) -> VerifyReport:
    return verify_recurrent(model.eval(), steps=STEPS, levels=levels, drift_steps=drift_steps, time_budget=20).report


def test_step_that_forgets_after_the_compared_steps_fails_in_the_drift() -> None:
    report = verified(Summing(), ["contract", "logits", "drift"])
    assert [result.runtime for result in report.results if not result.passed] == ["recurrent, float64"]
    (attribution,) = report.attributions
    assert (attribution.level, attribution.cause, attribution.step) == ("drift", "step", LAST)
    assert "both forms were compared in float64 over 32 tokens" in report.notes
    assert f"00.rows keeps its last {LAST} rows: it can be verified, and not exported" in report.notes


def test_right_model_is_compared_to_the_end_of_the_drift() -> None:
    report = verified(Summing(None), ["contract", "drift"])
    assert report.passed
    assert "both forms were compared in float64 over 40 tokens" in report.notes


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (lambda logits: logits / 0, "over 32 tokens the parallel form gives NaN or infinity"),
        (lambda logits: logits.view(-1, 16, V).view(2), "over 32 tokens `parallel` raised RuntimeError"),
    ],
)
def test_parallel_form_that_cannot_go_as_far_is_noted(late: Callable[[Tensor], Tensor], words: str) -> None:
    class Short(Summing):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = super().forward(tokens)
            return late(logits) if tokens.shape[1] > 16 else logits

    report = verified(Short(None), ["drift"])
    assert report.passed
    assert any("compared in float64 over 16 tokens, and no further: " + words in note for note in report.notes)


def test_comparison_stops_where_memory_or_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    notes = verified(Summing(None), ["drift"]).notes
    assert any("over 16 tokens, and no further: there is no memory for" in note for note in notes)
    monkeypatch.setattr(check, "_FORMS_SHARE", -1.0)
    notes = verified(Summing(None), ["drift"]).notes
    assert any(f"over {STEPS} tokens, and no further: there was no time for" in note for note in notes)


def test_tensor_that_stops_growing_late_fails_the_contract() -> None:
    report = verified(Emptied(None), ["contract", "drift"], 48)
    (contract,) = (result for result in report.results if result.level == "contract")
    assert not contract.passed
    assert "00.rows has the shape" in contract.summary


class Emptied(Summing):
    """All rows are added up to one from time to time: the right logits, and a state that no contract tells."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, state)
        rows = after["rows"]
        return logits, {"rows": rows.sum(1, keepdim=True)} if rows.shape[1] > LAST else after


def test_step_that_gives_nan_in_the_drift_fails_and_says_since_when() -> None:
    class Ending(Summing):
        def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
            logits, after = super().step(tokens, state)
            return logits / (0 if after["rows"].shape[1] > LAST else 1), after

    report = verified(Ending(None), ["drift"])
    assert not report.passed
    (attribution,) = report.attributions
    assert (attribution.step, attribution.cause) == (LAST, "step")
    assert attribution.verdict == f"step gives NaN or infinity, from step {LAST} on, in float64, too"


class Wrong(Recurrence):
    """The step computes something else."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, state)
        return logits + state[0]["memory"].sum(-1, keepdim=True), after


class WrongPrefill(Recurrence):
    """The prefill forgets what was before."""

    def prefill(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        state, rows = self.initial_state(len(tokens)), []
        for token in tokens.T:
            logits, state = self.step(token, state)
            rows.append(logits)
        return torch.stack(rows, 1), state


@pytest.mark.parametrize(
    ("make", "levels", "words"),
    [
        (Wrong, ["rows"], "step gives other logits than the parallel form, from step 1 on"),
        (WrongPrefill, ["contract", "logits"], "a prefill onto the state after 4 tokens gives other logits than steps"),
    ],
)
def test_disagreement_outside_the_levels_is_a_problem(make: type[nn.Module], levels: list[str], words: str) -> None:
    torch.manual_seed(0)
    report = verified(make(), levels)
    assert not report.passed
    assert all(result.passed for result in report.results)
    assert report.problems[0].startswith(words)


def test_step_without_numbers_fails_whatever_level_is_asked_for() -> None:
    class NoNumbers(Recurrence):
        def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
            logits, after = super().step(tokens, state)
            return logits, [{"memory": block["memory"] / 0} for block in after]

    torch.manual_seed(0)
    report = verified(NoNumbers(), ["state"])
    assert not report.passed
    assert report.problems[0].startswith("step gives NaN or infinity, from step 1 on")
    assert any("nothing else was checked" in note for note in report.notes)
