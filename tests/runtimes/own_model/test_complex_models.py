"""Models that compute with complex numbers inside, and carry them as pairs of real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causalrn import verify_recurrent
from tests.runtimes.own_model.faulty_models import E, V
from tests.runtimes.own_model.test_faults import blamed


class Rotating(nn.Module):
    """A linear recurrent unit: h_t = a h_(t-1) + u_t with complex a; the parallel form by powers of a, or by FFT."""

    vocabulary = V

    def __init__(self, by_fft: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.by_fft = nn.Embedding(V, E), nn.Linear(2 * E, V), by_fft
        self.turn = nn.Parameter(torch.polar(torch.linspace(0.5, 0.99, E), torch.linspace(0, 3, E)))  # [E], complex

    def read(self, memory: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.view_as_real(memory).flatten(-2))
        return logits

    def forward(self, tokens: Tensor) -> Tensor:
        u, time = self.embedding(tokens), tokens.shape[1]
        steps = torch.arange(time)
        powers = self.turn ** steps[:, None]  # [T, E]
        if self.by_fft:
            product = torch.fft.fft(powers, 2 * time, 0) * torch.fft.fft(u, 2 * time, 1)
            return self.read(torch.fft.ifft(product, dim=1)[:, :time])
        distance = steps[:, None] - steps
        mixing = self.turn ** distance.clamp(min=0)[..., None] * (distance >= 0)[..., None]  # [T, T, E]
        return self.read(torch.einsum("tse,bse->bte", mixing, u.to(mixing.dtype)))

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Any]:
        memory = self.after(torch.view_as_complex(state), self.embedding(tokens))
        return self.read(memory), torch.view_as_real(memory)

    def after(self, memory: Tensor, u: Tensor) -> Tensor:
        return self.turn * memory + u

    def initial_state(self, batch: int) -> Tensor:
        return self.embedding.weight.new_zeros(batch, E, 2)


class Mixing(Rotating):
    """All of it in complex numbers: without errors of those no rounding would be allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.view_as_complex(torch.randn(3, E, E, 2)) / E**0.5)
        self.out = nn.Parameter(torch.view_as_complex(torch.randn(E, V, 2)))

    def read(self, memory: Tensor) -> Tensor:
        for matrix in self.mixing:
            memory = memory + (memory @ matrix) / (1 + memory * memory.conj())
        return torch.view_as_real(memory @ self.out)[..., 0]


class Conjugated(Rotating):
    """The step turns the other way."""

    def after(self, memory: Tensor, u: Tensor) -> Tensor:
        return self.turn.conj() * memory + u


@pytest.mark.parametrize("by_fft", [False, True])
@pytest.mark.parametrize("steps", [8, 48])
def test_right_model_passes(by_fft: bool, steps: int) -> None:
    levels = ["contract", "logits", "state", "split", "rows", "isolation", "reload"]
    report = verify_recurrent(Rotating(by_fft).eval(), steps=steps, levels=levels).report
    assert report.passed, blamed(report)
    assert all(result.allowed < 1e-4 for result in report.results if result.level == "logits" and result.allowed)


def test_right_model_of_complex_numbers_alone_passes() -> None:
    report = verify_recurrent(Mixing().eval(), steps=96, levels=["logits", "state"]).report
    assert report.passed, blamed(report)


def test_step_that_turns_the_other_way_fails() -> None:
    report = verify_recurrent(Conjugated().eval(), steps=8, levels="logits").report
    assert not report.passed
    assert report.attributions[0].cause == "step"
