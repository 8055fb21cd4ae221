"""Copies of models behind functions: everything that they reach is copied, together, and the original stays."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.copying import copied, modules_of
from causalrn.model.own.forms import RecurrentForms

V, E = 5, 4
TOKENS = torch.tensor([[1, 2, 3]])


class Sum(nn.Module):
    """The state is the sum of what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, E), nn.Linear(E, V)
        self.kept: Any = None
        self.register_buffer("scale", torch.ones(E))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens).cumsum(1) * self.scale)
        return logits

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = state + self.embedding(tokens)
        return self.head(state * self.scale), state

    def initial_state(self, batch: int) -> Tensor:
        return self.head.weight.new_zeros(batch, E)


MODEL = Sum()


def _global_parallel(tokens: Tensor) -> Any:
    return MODEL(tokens)


def _global_step(tokens: Tensor, state: Tensor) -> Any:
    return _helped(tokens, state)


def _helped(tokens: Tensor, state: Tensor) -> Any:
    return MODEL.step(tokens, state)


def _global_initial_state(batch: int) -> Any:
    return MODEL.initial_state(batch)


def of_methods(model: Sum) -> RecurrentForms:
    return RecurrentForms(model, model.step, model.initial_state, V)


def of_lambdas(model: Sum) -> RecurrentForms:
    def step(tokens: Tensor, state: Tensor) -> Any:
        return model.step(tokens, state)

    return RecurrentForms(lambda tokens: model(tokens), step, lambda batch: model.initial_state(batch), V)


def of_partials(model: Sum) -> RecurrentForms:
    def step(given: Sum, tokens: Tensor, state: Tensor) -> Any:
        return given.step(tokens, state)

    return RecurrentForms(model, functools.partial(step, model), functools.partial(Sum.initial_state, model), V)


def of_named_partials(model: Sum) -> RecurrentForms:
    def step(tokens: Tensor, state: Tensor, *, given: Sum) -> Any:
        return given.step(tokens, state)

    return RecurrentForms(model, functools.partial(step, given=model), model.initial_state, V)


def of_defaults(model: Sum) -> RecurrentForms:
    def step(tokens: Tensor, state: Tensor, given: Sum = model) -> Any:
        return given.step(tokens, state)

    return RecurrentForms(model, step, model.initial_state, V)


def of_closures(model: Sum) -> RecurrentForms:
    parts = {"layers": [model.embedding, model.head]}

    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        embedding, head = parts["layers"]
        state = state + embedding(tokens)
        return head(state), state

    return RecurrentForms(model, step, model.initial_state, V)


def of_an_object(model: Sum) -> RecurrentForms:
    class Runner:
        def __init__(self) -> None:
            self.model = model

        def step(self, tokens: Tensor, state: Tensor) -> Any:
            return self.model.step(tokens, state)

    return RecurrentForms(model, Runner().step, model.initial_state, V)


WAYS: tuple[Callable[[Sum], RecurrentForms], ...] = (
    of_methods,
    of_lambdas,
    of_partials,
    of_named_partials,
    of_defaults,
    of_closures,
    of_an_object,
)


def run(forms: RecurrentForms) -> tuple[Tensor, Tensor]:
    """The parallel form's logits, and the steps'."""
    state, rows = forms.initial(1), []
    for token in TOKENS.T:
        logits, state = forms.step_once(token, state, None)
        rows.append(logits)
    return forms.whole(TOKENS), torch.stack(rows, 1)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_copy_in_float64_computes_the_same_and_the_original_stays(way: Callable[[Sum], RecurrentForms]) -> None:
    forms = way(Sum())
    before = run(forms)
    wide = run(copied(forms, torch.float64))
    assert all(value.dtype == torch.float64 for value in wide)
    for old, new in zip(before, wide, strict=True):
        torch.testing.assert_close(new.float(), old)
    assert all(
        torch.equal(old, now) and now.dtype == torch.float32 for old, now in zip(before, run(forms), strict=True)
    )


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_what_happens_to_a_copy_does_not_reach_the_original(way: Callable[[Sum], RecurrentForms]) -> None:
    forms = way(Sum())
    before = run(forms)
    other = copied(forms)
    for module in modules_of(other):
        for weight in module.parameters():
            weight.add_(1.0)
    assert all(torch.equal(old, now) for old, now in zip(before, run(forms), strict=True))
    assert not any(torch.equal(old, now) for old, now in zip(before, run(other), strict=True))


@torch.no_grad()
def test_module_level_names_are_copied_with_the_functions_that_use_them() -> None:
    forms = RecurrentForms(_global_parallel, _global_step, _global_initial_state, V)
    wide = run(copied(forms, torch.float64))
    assert all(value.dtype == torch.float64 for value in wide)
    assert MODEL.head.weight.dtype == torch.float32
    assert [id(module) for module in modules_of(forms)] == [id(MODEL)]


def test_functions_share_one_copy_of_a_module() -> None:
    model = Sum()
    other = copied(of_lambdas(model))
    (only,) = modules_of(other)
    assert only is not model


def test_tied_weights_stay_tied() -> None:
    model = Sum()
    model.head.weight = model.embedding.weight
    other = modules_of(copied(of_methods(model), torch.float64))[0]
    assert isinstance(other, Sum)
    assert other.head.weight is other.embedding.weight
    assert other.head.weight.dtype == torch.float64


def test_blocks_are_those_of_the_copy() -> None:
    model = Sum()
    forms = replace(of_methods(model), blocks=[model.embedding])
    other = copied(forms)
    (inner,) = modules_of(other)
    assert other.blocks is not None
    assert other.blocks[0] is dict(inner.named_modules())["embedding"]


def test_two_modules_are_both_found_and_inner_ones_are_not() -> None:
    one, two = Sum(), Sum()
    forms = RecurrentForms(one, two.step, lambda batch: one.embedding.weight.new_zeros(batch, E), V)
    assert [id(module) for module in modules_of(forms)] == [id(one), id(two)]


def test_integers_keep_their_type_and_plain_tensors_are_converted() -> None:
    model = Sum()
    model.plain = torch.ones(2)
    model.kept = {"rows": [torch.ones(2), 3], "ids": torch.ones(2, dtype=torch.int64)}
    other = modules_of(copied(of_methods(model), torch.float64))[0]
    assert isinstance(other, Sum)
    assert other.count.dtype == torch.int64
    assert other.scale.dtype == torch.float64
    assert other.plain.dtype == torch.float64
    assert other.kept["rows"][0].dtype == torch.float64
    assert other.kept["rows"][1] == 3
    assert other.kept["ids"].dtype == torch.int64
    assert model.kept["rows"][0].dtype == torch.float32


def test_tensors_in_closures_and_defaults_are_converted() -> None:
    model, table = Sum(), torch.ones(V)

    def step(tokens: Tensor, state: Tensor, factor: Tensor = torch.ones(1)) -> tuple[Tensor, Tensor]:  # noqa: B008
        logits, state = model.step(tokens, state)
        return logits * table * factor, state

    other = copied(RecurrentForms(model, step, model.initial_state, V), torch.float64)
    logits, _ = other.step_once(TOKENS[0, :1], other.initial(1), None)
    assert logits.dtype == torch.float64
    assert table.dtype == torch.float32


def test_tensors_with_a_history_of_gradients_are_copied() -> None:
    model = Sum()
    model.seen = model(TOKENS)
    other = modules_of(copied(of_methods(model)))[0]
    assert model.seen.requires_grad
    assert torch.equal(other.seen, model.seen)


def test_new_tensors_of_a_copy_are_as_wide_as_it() -> None:
    forms = replace(of_methods(Sum()), initial_state=lambda batch: torch.zeros(batch, E))
    assert copied(forms, torch.float64).initial(2).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


@torch.no_grad()
def test_functions_inside_a_module_call_the_copy() -> None:
    model = Sum()
    table = nn.Embedding(V, E)
    model.table = table
    model.embedding.register_forward_hook(lambda part, given, out: out + model.table(given[0]))
    model.kept = lambda logits: logits * model.scale[0]
    forms = replace(of_methods(model), parallel=lambda tokens: model.kept(model(tokens)))
    before = run(forms)
    wide = run(copied(forms, torch.float64))
    assert all(value.dtype == torch.float64 for value in wide)
    for old, new, now in zip(before, wide, run(forms), strict=True):
        torch.testing.assert_close(new.float(), old)
        assert torch.equal(now, old)
    other = copied(forms)
    next(part for part in modules_of(other) if isinstance(part, Sum)).get_parameter("table.weight").add_(1.0)
    assert torch.equal(run(forms)[0], before[0])
    assert not torch.equal(run(other)[0], before[0])


def test_functions_without_a_module_are_refused() -> None:
    forms = RecurrentForms(lambda tokens: tokens, lambda tokens, state: (tokens, state), lambda batch: [], V)
    with pytest.raises(InputError, match="no module was found"):
        modules_of(forms)


def test_what_cannot_be_copied_is_told() -> None:
    model = Sum()
    model.kept = threading.Lock()
    with pytest.raises(InputError, match="the model cannot be copied"):
        copied(of_methods(model))
