"""What state a model carries, found by running it: sizes, growth, the batch, and what a state must not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_probe import StateProbe, check_usable, probe_state

V, E = 5, 4
Step = Callable[[Tensor, Any], Any]
HEAD = nn.Embedding(V, V)


class Pair(NamedTuple):
    memory: Tensor
    seen: Tensor


def probed(initial_state: Callable[[int], Any], change: Step, **others: Any) -> StateProbe:
    """A model whose state is changed by a function of token embeddings [B, V] and state."""

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits = HEAD(tokens)
        return logits, change(logits, state)

    return probe_state(RecurrentForms(HEAD, step, initial_state, V, **others))


def kinds(probe: StateProbe) -> list[tuple[str, str]]:
    return [(fault.kind, fault.tensor) for fault in probe.faults]


def test_constant_size_has_its_axis_of_the_batch() -> None:
    probe = probed(lambda batch: [torch.zeros(E, batch, V)], lambda x, state: [state[0] + x])
    (tensor,) = probe.spec.tensors
    assert probe.faults == ()
    assert (tensor.shape, tensor.growth, tensor.batch_axis, tensor.dtype) == ((E, "B", V), "constant", 1, "float32")
    assert probe.spec.pool == "none"
    check_usable(probe)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("rows", [0, 2])
def test_growing_axis_is_found(axis: int, rows: int) -> None:
    def initial_state(batch: int) -> Any:
        return {"keys": torch.zeros([batch, *(rows if place == axis else 3 for place in (1, 2))])}

    def change(x: Tensor, state: Any) -> Any:
        row = torch.ones([len(x), *(1 if place == axis else 3 for place in (1, 2))])
        return {"keys": torch.cat([state["keys"], row], axis)}

    probe = probed(initial_state, change, capacity=9)
    (tensor,) = probe.spec.tensors
    assert probe.faults == ()
    assert (tensor.growth, tensor.growth_axis, tensor.capacity) == ("token", axis, 9)
    assert tensor.shape[axis] == "t"
    assert dict(probe.first_rows) == {"00.keys": rows}
    assert probe.spec.pool == "concat"


def test_growth_that_begins_with_rows_cannot_be_exported() -> None:
    probe = probed(lambda batch: torch.zeros(batch, 1, V), lambda x, state: torch.cat([state, x[:, None]], 1))
    assert probe.faults == ()
    with pytest.raises(InputError, match="begins with 1 rows"):
        check_usable(probe)


def test_scalars_need_no_axis_of_the_batch() -> None:
    probe = probed(
        lambda batch: [torch.zeros(batch, V), torch.zeros((), dtype=torch.int64)],
        lambda x, state: [state[0] + x, state[1] + 1],
    )
    assert probe.faults == ()
    assert probe.idle == ()
    assert [tensor.batch_axis for tensor in probe.spec.tensors] == [0, -1]


def test_counter_that_nobody_advances_is_idle() -> None:
    probe = probed(
        lambda batch: Pair(torch.zeros(batch, V), torch.zeros(batch, dtype=torch.int64)),
        lambda x, state: Pair(state.memory + x, state.seen),
    )
    assert probe.faults == ()
    assert probe.idle == ("00.seen",)


def test_nested_trees_with_numbers_and_nothing_in_them_are_followed() -> None:
    probe = probed(
        lambda batch: {"blocks": [(Pair(torch.zeros(batch, V), torch.zeros(batch)), None, 3)], "flag": False},
        lambda x, state: {"blocks": [(Pair(x, state["blocks"][0][0].seen + 1), None, 3)], "flag": False},
    )
    assert probe.faults == ()
    assert [tensor.name for tensor in probe.spec.tensors] == ["00.0.memory", "00.0.seen"]


@pytest.mark.parametrize(
    ("initial_state", "change", "kind"),
    [
        (lambda batch: torch.zeros(3, V), lambda x, state: state + 1, "batch"),
        (lambda batch: torch.zeros(batch, batch), lambda x, state: state + 1, "batch"),
        (lambda batch: torch.zeros(1, V), lambda x, state: state + x, "shape"),
        (lambda batch: torch.zeros(batch, V), lambda x, state: (state + x).half(), "dtype"),
        (lambda batch: torch.zeros(batch, V), lambda x, state: (state + x).double(), "dtype"),
        (lambda batch: torch.zeros(batch, 0, V), lambda x, state: torch.cat([state, x[:, None]], 1)[:, -3:], "shape"),
        (lambda batch: torch.zeros(batch, 0), lambda x, state: torch.cat([state, x[:, :2]], 1), "shape"),
        (lambda batch: torch.zeros(batch, V), lambda x, state: state.add_(x), "in place"),
        (lambda batch: torch.zeros(batch, V), lambda x, state: state.copy_(x) * 2, "in place"),
    ],
)
def test_what_a_state_must_not_do_is_found(initial_state: Any, change: Step, kind: str) -> None:
    probe = probed(initial_state, change)
    assert (kind, "00.state") in kinds(probe)
    with pytest.raises(InputError, match="such a state cannot be exported"):
        check_usable(probe)


def test_shape_that_depends_on_the_tokens_is_found() -> None:
    """By the last token of the last sequence, which is another one in some of the probe's runs."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])

    def step(tokens: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        logits = HEAD(tokens)
        grown = torch.cat([state[1], logits[:, : 1 + int(signs[tokens[-1]] > 0)]], 1)
        return logits, [logits, grown]

    probe = probe_state(RecurrentForms(HEAD, step, lambda batch: [torch.zeros(batch, V), torch.zeros(batch, 0)], V))
    assert ("shape", "01.state") in kinds(probe)


def test_containers_that_are_filled_anew_count_as_changed_in_place() -> None:
    def change(x: Tensor, state: Any) -> Any:
        state["memory"] = state["memory"] + x
        return state

    probe = probed(lambda batch: {"memory": torch.zeros(batch, V)}, change)
    assert probe.in_place == {"00.memory"}


def test_containers_that_grow_are_refused() -> None:
    def change(x: Tensor, state: Any) -> Any:
        kept = list(state)
        state.append(x)
        return kept

    with pytest.raises(InputError, match="`step` adds to the state that it is given"):
        probed(lambda batch: [torch.zeros(batch, V)], change)


def test_views_of_the_state_that_is_given_are_no_change() -> None:
    probe = probed(lambda batch: torch.zeros(batch, 2, V), lambda x, state: torch.stack([state[:, 1], x], 1))
    assert probe.faults == ()


def test_prefill_that_changes_what_it_is_given_is_found() -> None:
    def prefill(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits = HEAD(tokens)
        return logits, state.add_(logits.sum(1))

    probe = probed(lambda batch: torch.zeros(batch, V), lambda x, state: state + x, prefill=prefill)
    assert [fault.words for fault in probe.faults] == [
        "prefill changes 00.state of the state that it is given: it must make a new tensor"
    ]


CACHE: dict[str, Any] = {}


class Keeping(nn.Module):
    """Keeps what it read at some place outside its state."""

    shared: Any = None

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.head = place, nn.Embedding(V, V)
        self.kept: Any = None
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(tokens)
        return logits

    def step(self, tokens: Tensor, state: Any, memory: list[Any] = []) -> tuple[Tensor, Any]:  # noqa: B006
        x = self.head(tokens)
        if self.place == "attribute":
            self.kept = {"rows": [x.clone()]}
        elif self.place == "buffer":
            self.seen = self.seen + x.sum()
        elif self.place == "class":
            type(self).shared = x.clone()
        elif self.place == "default":
            memory[:] = [x.clone()]
        elif self.place == "file":
            CACHE["x"] = x.clone()
        elif self.place == "weights":
            self.head.weight.data.mul_(1.01)
            self.head.weight.add_(0.01)
        elif self.place == "first call" and self.kept is None:
            self.kept = torch.ones(3)
        return x, state + x

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, V)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("attribute", "kept"),
        ("buffer", "seen"),
        ("class", "Keeping.shared"),
        ("default", "step.memory"),
        ("file", "CACHE"),
        ("weights", "head.weight"),
    ],
)
def test_what_is_kept_outside_the_state_is_named(place: str, name: str) -> None:
    model = Keeping(place)
    probe = probe_state(RecurrentForms(model, model.step, model.initial_state, V))
    assert ("on the module", name) in kinds(probe)
    assert any(name in fault.words and "no part of the state" in fault.words for fault in probe.faults)


@pytest.mark.parametrize("place", ["nowhere", "first call"])
def test_what_stays_as_the_first_call_made_it_is_no_state(place: str) -> None:
    model = Keeping(place)
    assert probe_state(RecurrentForms(model, model.step, model.initial_state, V)).faults == ()


def test_what_a_function_closes_over_is_named() -> None:
    model, memory = Keeping("nowhere"), {"sum": torch.zeros(())}

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        memory["sum"] = memory["sum"] + tokens.sum() + 1
        return model.step(tokens, state)

    probe = probe_state(RecurrentForms(model, step, model.initial_state, V))
    assert kinds(probe) == [("on the module", "memory")]


def test_few_positions_are_not_exceeded() -> None:
    seen: list[int] = []

    def step(tokens: Tensor, state: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(int(position))
        return HEAD(tokens), state + 1

    probe_state(RecurrentForms(HEAD, step, lambda batch: torch.zeros(batch, V), V, capacity=3))
    assert max(seen) == 2
