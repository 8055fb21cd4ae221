"""Blocks that cannot be compared between the forms: left out with a note, or refused where somebody named them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causalrn import verify_recurrent
from causalrn.errors import InputError
from tests.runtimes.own_model.faulty_models import E, V


class Block(nn.Module):
    def __init__(self, packed: type = Tensor) -> None:
        super().__init__()
        self.linear, self.packed = nn.Linear(E, E), packed

    def forward(self, x: Tensor) -> Any:
        return self.pack(x + self.linear(x).sin())

    def pack(self, x: Tensor) -> Any:
        return {Tensor: x, list: [x], dict: {"x": x}, tuple: (x, None)}[self.packed]


class Stack(nn.Module):
    """Blocks after a sum over all tokens; each form calls them as modules, or a method of theirs."""

    vocabulary = V

    def __init__(self, packed: type = Tensor, whole: bool = True, once: bool = True, order: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(V, E), nn.Linear(E, V)
        self.blocks = nn.ModuleList([Block(packed) for _ in range(2)])
        self.as_modules, self.order = (whole, once), order

    def run(self, x: Tensor, as_modules: bool) -> Tensor:
        for block in list(self.blocks)[:: self.order]:
            x = block(x) if as_modules else block.forward(x)
            x = x if isinstance(x, Tensor) else next(iter(x.values())) if isinstance(x, dict) else x[0]
        logits: Tensor = self.head(x)
        return logits

    def forward(self, tokens: Tensor) -> Tensor:
        return self.run(self.embedding(tokens).cumsum(1).sin(), self.as_modules[0])

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = state + self.embedding(tokens)
        return self.run(state.sin(), self.as_modules[1]), state

    def initial_state(self, batch: int) -> Tensor:
        return self.embedding.weight.new_zeros(batch, E)


UNUSABLE = {
    "step calls a method": (lambda: Stack(once=False), "step calls the Block at 0 never"),
    "both call a method": (lambda: Stack(whole=False, once=False), "parallel calls the Block at 0 never"),
    "a list": (lambda: Stack(list), "in parallel one of them gives a list"),
    "a dict": (lambda: Stack(dict), "in parallel one of them gives a dict"),
    "another order": (lambda: Stack(order=-1), "parallel calls them in another order"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_blocks_that_cannot_be_compared_are_left_out_with_a_note(name: str) -> None:
    make, words = UNUSABLE[name]
    report = verify_recurrent(make(), steps=6, levels=["logits", "layer"]).report
    assert report.passed
    assert {result.level for result in report.results} == {"logits"}
    (note,) = (note for note in report.notes if note.startswith("layer was not checked"))
    assert words in note


@pytest.mark.parametrize("name", UNUSABLE)
def test_blocks_that_were_named_and_cannot_be_compared_are_refused(name: str) -> None:
    make, words = UNUSABLE[name]
    with pytest.raises(InputError, match=words):
        verify_recurrent(make(), steps=6, levels=["logits", "layer"], blocks=["blocks.0", "blocks.1"])


@pytest.mark.parametrize("packed", [Tensor, tuple])
def test_blocks_that_both_forms_call_are_compared(packed: type) -> None:
    report = verify_recurrent(Stack(packed), steps=6, levels=["layer"]).report
    assert report.passed
    assert {result.level for result in report.results} == {"layer"}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [(["embedding"], r"reads no tensor|\[3, 2\], not \[B, T, E\]"), (["blocks.0", "blocks.0"], "stands there twice")],
)
def test_modules_that_are_no_blocks_are_refused(blocks: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        verify_recurrent(Stack(), steps=6, levels=["layer"], blocks=blocks)
