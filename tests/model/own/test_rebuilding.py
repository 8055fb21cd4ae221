"""Functions in places that copy.deepcopy leaves alone: copies call copies, and the user's model stays as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.copying import copied, modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.outside_values import outside_values

V = 5
NETS: list[nn.Module] = [nn.Embedding(V, V)]
SEEN: list[int] = []


def forms_of(parallel: Callable[..., Any], step: Callable[..., Any] | None = None) -> RecurrentForms:
    return RecurrentForms(parallel, step or (lambda tokens, state: (parallel(tokens), state)), lambda batch: [], V)


def of_keyword(net: nn.Module) -> RecurrentForms:
    def parallel(tokens: Tensor, *, net: nn.Module = net) -> Any:
        return net(tokens)

    return forms_of(parallel)


def of_list(net: nn.Module) -> RecurrentForms:
    held: list[Any] = [lambda tokens: net(tokens)]
    held.append(held)  # it holds itself
    return forms_of(lambda tokens: held[0](tokens))


def of_dict_of_tuples(net: nn.Module) -> RecurrentForms:
    held = {"a": (1, functools.partial(lambda given, tokens: given(tokens), net))}
    return forms_of(lambda tokens: held["a"][1](tokens))


def of_object(net: nn.Module) -> RecurrentForms:
    class Holder:
        def __init__(self) -> None:
            self.run = lambda tokens: net(tokens)

    holder = Holder()
    return forms_of(lambda tokens: holder.run(tokens))


def of_comprehension(net: nn.Module) -> RecurrentForms:
    NETS[0] = net

    def parallel(tokens: Tensor) -> Any:
        return next((lambda: inner(tokens))() for inner in NETS)

    return forms_of(parallel)


@pytest.mark.parametrize("way", [of_keyword, of_list, of_dict_of_tuples, of_object, of_comprehension])
def test_copy_calls_copies_wherever_functions_are(way: Callable[[nn.Module], RecurrentForms]) -> None:
    net = nn.Embedding(V, V)
    forms = way(net)
    wide = copied(forms, torch.float64)
    assert modules_of(forms) == [net]
    assert modules_of(wide) != [net]
    assert net.weight.dtype == torch.float32
    assert wide.whole(torch.zeros(2, 3, dtype=torch.int64)).dtype == torch.float64
    with torch.no_grad():
        net.weight.fill_(7)
    assert not wide.whole(torch.zeros(2, 3, dtype=torch.int64)).eq(7).any()


def test_modules_call_copies_through_lists_of_functions() -> None:
    net = nn.Linear(2, 2)
    net.held = [lambda x: net(x), {"a": lambda x: net(x)}]  # type: ignore[assignment]
    made: Any = copied(forms_of(net), torch.float64).parallel
    assert made.held[0](torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    assert made.held[1]["a"].__closure__[0].cell_contents is made


@pytest.mark.parametrize("decorator", [torch.no_grad(), torch.inference_mode(), None])
def test_decorated_step_still_takes_its_position(decorator: Any) -> None:
    net = nn.Embedding(V, V)

    def step(tokens: Tensor, state: Any, position: Tensor) -> Any:
        return net(tokens) + position, state

    @functools.wraps(step)
    def wrapped(*given: Any, **named: Any) -> Any:
        return step(*given, **named)

    forms = forms_of(net, wrapped if decorator is None else decorator(step))
    wide = copied(forms, torch.float64)
    assert wide.takes_position
    assert net not in modules_of(wide)
    given: Any = (torch.zeros(1, dtype=torch.int64), [], torch.tensor(1))
    torch.testing.assert_close(wide.step_once(*given)[0], forms.step_once(*given)[0].double())


class Itself(nn.Embedding):
    """It is not copied."""

    def __deepcopy__(self, memo: Any) -> Itself:
        return self


class Raising(nn.Embedding):
    def __deepcopy__(self, memo: Any) -> Any:
        raise LookupError("no\nsuch thing")


@pytest.mark.parametrize(
    ("made", "words"),
    [(Itself(V, V), "Itself is the same module in the copy"), (Raising(V, V), r"\(LookupError: no such thing\)")],
)
def test_module_that_is_not_copied_is_refused_and_stays_as_it_is(made: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words):
        copied(forms_of(made), torch.float64)
    assert all(weight.dtype == torch.float32 for weight in made.parameters())


def test_complex_numbers_stay_complex_and_shared_tensors_shared() -> None:
    net: Any = nn.Embedding(V, V)
    net.turn = nn.Parameter(torch.tensor([1j], dtype=torch.complex64))
    net.register_buffer("table", torch.ones(2))
    net.same, net.waves = net.table, [torch.tensor([2j], dtype=torch.complex64)]
    made: Any = copied(forms_of(net), torch.float64).parallel
    assert (made.turn.dtype, made.turn.item()) == (torch.complex128, 1j)
    assert made.waves[0].dtype == torch.complex128
    assert made.same is made.table
    assert net.turn.dtype == torch.complex64


def test_names_in_comprehensions_are_watched() -> None:
    net = nn.Embedding(V, V)

    def parallel(tokens: Tensor) -> Any:
        return next(net(tokens) for _ in range(1) if SEEN is not None)

    assert "SEEN" in outside_values(forms_of(parallel))
