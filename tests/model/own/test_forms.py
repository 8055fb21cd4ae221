"""What users hand over as a recurrent model: where its functions come from, and how they are called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms, forms_from, mask_name, takes

V = 5


class Small(nn.Module):
    """Logits of each token by itself."""

    vocabulary = V

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Embedding(V, V)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(tokens)
        return logits

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.head(tokens), state

    def initial_state(self, batch: int) -> Any:
        return [torch.zeros(batch, 1)]


def test_model_is_its_own_parallel_form() -> None:
    model = Small()
    forms = forms_from(model, {})
    assert forms.parallel is model
    assert (forms.title, forms.vocabulary, forms.capacity, forms.prefill, forms.blocks) == (
        "Small",
        V,
        None,
        None,
        None,
    )


def test_arguments_go_before_what_a_model_has() -> None:
    model = Small()
    forms = forms_from(model, {"vocabulary": 7, "capacity": 9, "step": None})
    assert (forms.vocabulary, forms.capacity) == (7, 9)
    assert forms.step == model.step


def test_mappings_and_forms_are_taken() -> None:
    model = Small()
    given = {"parallel": model, "step": model.step, "initial_state": model.initial_state, "vocabulary": V, "name": "it"}
    forms = forms_from(given, {})
    assert forms.title == "it"
    assert forms_from(forms, {"capacity": 4}).capacity == 4


def test_functions_alone_are_enough() -> None:
    model = Small()
    functions = {"parallel": model, "step": model.step, "initial_state": model.initial_state, "vocabulary": V}
    assert forms_from(None, functions).step == model.step


def test_initial_state_may_be_called_init_state() -> None:
    model = Small()
    other = SimpleNamespace(step=model.step, init_state=model.initial_state, vocabulary=V)

    class Callable(SimpleNamespace):
        def __call__(self, tokens: Tensor) -> Any:
            return model(tokens)

    assert forms_from(Callable(**vars(other)), {}).initial_state == model.initial_state


def test_blocks_of_a_model_are_its_modules_or_nothing() -> None:
    model = Small()
    model.blocks = nn.ModuleList([nn.Identity()])
    assert forms_from(model, {}).blocks == [model.blocks[0]]
    del model.blocks
    model.blocks = ["a", "b"]  # type: ignore[assignment]
    assert forms_from(model, {}).blocks is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("parallel", 3, "`parallel` is 3: it must be a function"),
        ("step", "x", "`step` is 'x'"),
        ("vocabulary", 1, "`vocabulary` is 1: it must be a whole number from 2 on"),
        ("vocabulary", True, "`vocabulary` is True"),
        ("capacity", 1, "`capacity` is 1"),
        ("capacity", 2.5, "`capacity` is 2.5"),
        ("blocks", ["x"], "`blocks` holds 'x'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(name: str, value: object, words: str) -> None:
    model = Small()
    fields: dict[str, Any] = {"parallel": model, "step": model.step, "initial_state": model.initial_state}
    with pytest.raises(InputError, match=words):
        RecurrentForms(**(fields | {"vocabulary": V, name: value}))


@pytest.mark.parametrize("name", ["step", "initial_state", "vocabulary"])
def test_what_is_missing_is_named(name: str) -> None:
    model = Small()
    given = {"parallel": model, "step": model.step, "initial_state": model.initial_state, "vocabulary": V}
    with pytest.raises(InputError, match=f"`{name}` is missing"):
        forms_from({key: value for key, value in given.items() if key != name}, {})


def test_position_is_given_to_steps_that_take_it_alone() -> None:
    seen: list[object] = []

    def told(tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
        seen.append(int(position))
        return torch.zeros(len(tokens), V), state

    model = Small()
    forms = RecurrentForms(model, told, model.initial_state, V)
    forms.step_once(torch.tensor([1]), [], torch.tensor(4))
    assert seen == [4]
    assert forms.takes_position
    assert not forms.may_omit_position
    plain = RecurrentForms(model, model.step, model.initial_state, V)
    plain.step_once(torch.tensor([1]), [], torch.tensor(4))
    assert not plain.takes_position


def test_position_with_a_default_may_be_left_out() -> None:
    model = Small()
    forms = RecurrentForms(model, lambda tokens, state, position=None: None, model.initial_state, V)
    assert forms.takes_position
    assert forms.may_omit_position


def test_mask_is_found_under_both_names() -> None:
    assert mask_name(lambda tokens, attention_mask=None: None) == "attention_mask"
    assert mask_name(lambda tokens, mask: None) == "mask"
    assert mask_name(lambda tokens: None) is None
    assert mask_name(None) is None
    assert not takes(len, "tokens")


def test_whole_gives_the_mask_under_its_name() -> None:
    model = Small()

    def parallel(tokens: Tensor, mask: Tensor) -> Tensor:
        return model(tokens) * mask[..., None]  # type: ignore[no-any-return]

    forms = RecurrentForms(parallel, model.step, model.initial_state, V, name="masked")
    assert not forms.whole(torch.tensor([[1, 2]]), torch.tensor([[0, 0]])).any()


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (3, "gave a int for logits"),
        (torch.zeros(2, V, dtype=torch.int64), r"gave a tensor int64 \[2, 5\] for logits"),
        (torch.zeros(2, V + 1), r"of shape \[2, 6\], expected \[B, V\] = \[2, 5\]"),
        (torch.zeros(2, 1, V), r"of shape \[2, 1, 5\]"),
    ],
)
def test_logits_that_do_not_fit_are_refused(logits: object, words: str) -> None:
    model = Small()
    forms = RecurrentForms(model, lambda tokens, state: (logits, state), model.initial_state, V)
    with pytest.raises(InputError, match=words):
        forms.step_once(torch.tensor([1, 2]), [], None)


def test_what_a_function_raises_is_told_with_its_name() -> None:
    def failing(batch: int) -> Any:
        raise RuntimeError("two\nlines")

    model = Small()
    with pytest.raises(InputError, match="`initial_state` raised RuntimeError: two lines"):
        RecurrentForms(model, model.step, failing, V).initial(1)


def test_default_dtype_is_put_back_where_a_function_raises() -> None:
    def failing(batch: int) -> Any:
        raise RuntimeError(str(torch.get_default_dtype()))

    model = Small()
    forms = RecurrentForms(model, model.step, failing, V, default_dtype=torch.float64)
    with pytest.raises(InputError, match=r"in a float64 copy of the model .*torch\.float64"):
        forms.initial(1)
    assert torch.get_default_dtype() == torch.float32
