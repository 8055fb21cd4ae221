"""What is no recurrent model, or cannot be verified, is told in one line that says what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causalrn import verify_recurrent
from causalrn.errors import InputError
from causalrn.runtimes.parity.results import MODEL_LEVELS
from tests.runtimes.own_model.faulty_models import Attention, E, Recurrence, V

QUICK = [level for level in MODEL_LEVELS if level not in ("calls", "drift")]
Step = Recurrence.step


def model(**others: Any) -> Recurrence:
    """The right model, with other methods."""
    torch.manual_seed(0)
    made = type("Changed", (Recurrence,), others)().eval()
    assert isinstance(made, Recurrence)
    return made


def raising(*_: Any, **__: Any) -> Any:
    raise ValueError("no such\nthing")


def with_weight(value: float) -> Recurrence:
    made = model()
    with torch.no_grad():
        made.head.weight.fill_(value)
        made.head.bias.fill_(value)
    return made


def beside(other: Tensor | Any) -> Recurrence:
    """With one more tensor in its state, that is carried as it is."""

    def step(self: Recurrence, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, blocks = Step(self, tokens, state[0])
        return logits, [blocks, state[1]]

    return model(step=step, initial_state=lambda self, batch: [Recurrence.initial_state(self, batch), other])


def counting() -> Recurrence:
    """A number in its state, that is no tensor, counts."""

    def step(self: Recurrence, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, blocks = Step(self, tokens, state[0])
        return logits, [blocks, state[1] + 1]

    return model(step=step, initial_state=lambda self, batch: [Recurrence.initial_state(self, batch), 0])


def holding(value: Any, name: str = "held") -> Recurrence:
    made = model()
    setattr(made, name, value)
    return made


def returning(change: Callable[[Tensor, Any], Any]) -> Recurrence:
    return model(step=lambda self, tokens, state: change(*Step(self, tokens, state)))


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "`parallel` is missing: give a model"),
    "a number": (lambda: 3, "a int is no recurrent model"),
    "a list": (lambda: [model()], "a list is no recurrent model"),
    "a class": (lambda: Recurrence, r"Recurrence is a class: give a model, Recurrence\(...\)"),
    "a module without step": (lambda: nn.Linear(2, 2), "`step` is missing: the model must have a method step"),
    "an unknown entry": (lambda: {"stepp": 1}, "'stepp' is unknown"),
    "an entry left out": (lambda: {"parallel": model()}, "`step` is missing"),
    "a compiled model": (lambda: holding(model(), "_orig_mod"), "the model is compiled"),
    "functions without a module": (
        lambda: {"parallel": len, "step": len, "initial_state": len, "vocabulary": 5},
        "no module was found",
    ),
    "step that is no function": (lambda: model(step="x"), "`step` is 'x'"),
    "prefill that is no function": (lambda: model(prefill="x"), "`prefill` is 'x'"),
    "step that raises": (lambda: model(step=raising), "`step` raised ValueError: no such thing"),
    "parallel form that raises": (lambda: model(forward=raising), "`parallel` raised ValueError: no such thing"),
    "initial state that raises": (lambda: model(initial_state=raising), "`initial_state` raised ValueError"),
    "prefill that raises": (lambda: model(prefill=raising), "`prefill` raised ValueError"),
    "tokens that are no integers": (
        lambda: model(step=lambda self, tokens, state: Step(self, tokens.float(), state)),
        "`step` raised RuntimeError: Expected tensor for argument",
    ),
    "no state": (lambda: model(initial_state=lambda self, batch: None), "the state holds no tensor"),
    "an empty state": (lambda: model(initial_state=lambda self, batch: []), "the state holds no tensor"),
    "a state of objects": (
        lambda: model(initial_state=lambda self, batch: [object()]),
        "the state holds object at",
    ),
    "a state of arrays": (
        lambda: model(initial_state=lambda self, batch: np.zeros(3)),
        "the state holds ndarray",
    ),
    "complex numbers": (lambda: beside(torch.zeros(3, dtype=torch.complex64)), r"at \[1\] is complex64"),
    "a sparse state": (lambda: beside(torch.zeros(3, 2).to_sparse()), r"at \[1\] is sparse"),
    "a state without data": (
        lambda: beside(torch.zeros(3, device="meta")),
        "quantized or without data",
    ),
    "a number that counts": (counting, "`step` changed 0 in the state to 1"),
    "no pair": (lambda: returning(lambda logits, state: logits), "must give a pair"),
    "another state": (lambda: returning(lambda logits, state: (logits, state[:1])), "is built otherwise"),
    "logits of a token too many": (
        lambda: returning(lambda logits, state: (logits[:, None], state)),
        rf"`step` gave logits of shape \[2, 1, {V}\], expected \[B, V\] = \[2, {V}\]",
    ),
    "logits of integers": (lambda: returning(lambda logits, state: (logits.long(), state)), "int64"),
    "last logits only": (
        lambda: model(forward=lambda self, tokens: Recurrence.forward(self, tokens)[:, -1]),
        r"`parallel` gave logits of shape \[3, 11\], expected \[B, T, V\]",
    ),
    "logits in a tuple": (
        lambda: model(forward=lambda self, tokens: (Recurrence.forward(self, tokens),)),
        "`parallel` gave a tuple for logits",
    ),
    "no vocabulary": (lambda: model(vocabulary=None), "`vocabulary` is missing: say how many token ids there are"),
    "a vocabulary of text": (lambda: model(vocabulary="11"), "`vocabulary` is '11'"),
    "a vocabulary of one": (lambda: model(vocabulary=1), "`vocabulary` is 1"),
    "a vocabulary too small": (lambda: model(vocabulary=5), r"expected \[B, V\] = \[2, 5\]"),
    "a vocabulary too large": (lambda: model(vocabulary=50), "are `vocabulary` and `capacity` right"),
    "a capacity too small": (lambda: model(capacity=3), "`capacity` is 3"),
    "logits that are NaN": (lambda: with_weight(float("nan")), "both forms give NaN or infinity"),
    "logits that are zero": (lambda: with_weight(0.0), "logits are all zero"),
    "16-bit weights": (lambda: model().bfloat16(), r"the weight embedding.weight is bfloat16: .*call .float"),
    "weights that are not there": (
        lambda: (
            {"parallel": model().to("meta"), "step": model().step, "initial_state": model().initial_state}
            | {"vocabulary": V}
        ),
        "is on the meta device",
    ),
    "what cannot be copied": (lambda: holding(threading.Lock()), "the model cannot be copied"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_model_is_told_in_one_line(name: str) -> None:
    make, words = UNFIT[name]
    with pytest.raises(InputError, match=words) as caught:
        verify_recurrent(make(), steps=8, levels=QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("levels", "words"),
    [("guards", "is of bundles"), ("padding", "takes an attention_mask"), ("positions", "may be left out")],
)
def test_level_that_cannot_be_checked_is_refused(levels: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        verify_recurrent(model(), steps=8, levels=levels)


def test_step_that_gives_nan_fails_and_names_what_carries_it() -> None:
    made = returning(lambda logits, state: (logits, [{"memory": block["memory"] / 0} for block in state]))
    report = verify_recurrent(made, steps=8, levels=QUICK).report
    assert not report.passed
    assert {result.level for result in report.results} == {"contract", "logits"}
    assert report.attributions[0].step == 1
    assert "00.memory" in report.attributions[0].verdict
    assert any("nothing else was checked" in note for note in report.notes)


def test_steps_beyond_the_capacity_are_cut_with_a_note() -> None:
    torch.manual_seed(0)
    made = model(capacity=6)
    notes = verify_recurrent(made, steps=8, levels="logits").report.notes
    assert "sequences have 6 tokens, not 8: that is the model's `capacity`" in notes
    assert not any("sequences have" in note for note in verify_recurrent(made, steps=6, levels="logits").report.notes)


def test_learned_positions_without_a_capacity_are_told() -> None:
    made = type("Unbounded", (Attention,), {"capacity": None})().eval()
    with pytest.raises(InputError, match="are `vocabulary` and `capacity` right"):
        verify_recurrent(made, steps=64, levels=QUICK)


def test_vocabulary_of_another_integer_type_is_taken() -> None:
    assert verify_recurrent(model(vocabulary=np.int64(V)), steps=4, levels="logits").passed


def test_names_that_are_no_words_become_names() -> None:
    def initial_state(self: Recurrence, batch: int) -> Any:
        zeros = torch.zeros(batch, E, dtype=self.head.weight.dtype)
        return {"größe!": zeros, "": Recurrence.initial_state(self, batch)}

    def step(self: Recurrence, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, blocks = Step(self, tokens, state[""])
        return logits, {"größe!": state["größe!"] + 0, "": blocks}

    made = model(initial_state=initial_state, step=step)
    report = verify_recurrent(made, steps=4, levels=["logits", "contract"]).report
    assert report.passed
    assert [tensor.name for tensor in report.state.tensors] == ["00.gr_e_", "00._.memory", "01._.memory"]
