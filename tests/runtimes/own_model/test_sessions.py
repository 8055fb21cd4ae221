"""Models that users bring as sessions: states that are kept, put back, written and read, bit for bit; generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causalrn import open_model, verify_recurrent
from causalrn.errors import CapacityError, InputError, NonFiniteError, StateError
from causalrn.runtimes.session import Session
from tests.runtimes.own_model.faulty_models import CAPACITY, RIGHT, Attention, E, Recurrence, V


class Halved(Recurrence):
    """Carries bfloat16."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, [{"memory": block["memory"].float()} for block in state])
        return logits, [{"memory": block["memory"].bfloat16()} for block in after]

    def initial_state(self, batch: int) -> Any:
        return [{"memory": block["memory"].bfloat16()} for block in super().initial_state(batch)]


class InPlace(Recurrence):
    """Changes the state that it is given."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, state)
        for old, new in zip(state, after, strict=True):
            old["memory"].copy_(new["memory"])
        return logits, state


MODELS: tuple[Callable[[], nn.Module], ...] = (*RIGHT, Halved, InPlace)
TOKENS = np.random.default_rng(0).integers(0, V, (2, 12))


def session_of(make: Callable[[], nn.Module]) -> Session:
    torch.manual_seed(0)
    return open_model(make().eval())


def steps(session: Session, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.stack([session.step(token) for token in tokens.T], 1)


@pytest.mark.parametrize("make", MODELS)
def test_restored_state_goes_on_bit_for_bit(make: Callable[[], nn.Module]) -> None:
    with session_of(make) as session:
        session.reset(2)
        first = steps(session, TOKENS[:, :5])
        kept = session.snapshot()
        rest = steps(session, TOKENS[:, 5:])
        session.restore(kept)
        assert session.position == 5
        assert np.array_equal(session.last_logits, first[:, -1])
        assert np.array_equal(steps(session, TOKENS[:, 5:]), rest)


@pytest.mark.parametrize("make", MODELS)
def test_state_file_goes_on_in_another_session_bit_for_bit(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with session_of(make) as one, session_of(make) as two:
        one.reset(2)
        steps(one, TOKENS[:, :5])
        one.save(path)
        two.load(path)
        assert np.array_equal(steps(two, TOKENS[:, 5:]), steps(one, TOKENS[:, 5:]))
        for name, value in one.snapshot().tensors.items():
            assert np.array_equal(two.snapshot().tensors[name], value)


@pytest.mark.parametrize("make", MODELS)
def test_generation_that_is_interrupted_gives_the_same_tokens(make: Callable[[], nn.Module]) -> None:
    prompt = TOKENS[:, :3]
    with session_of(make) as session:
        whole = [step.tokens for step in session.generate(prompt, max_new_tokens=8, temperature=1.0, seed=3)]
        session.reset(2)
        begun = [step.tokens for step in session.generate(prompt, max_new_tokens=3, temperature=1.0, seed=3)]
        kept = session.snapshot()
        session.reset(1)
        session.restore(kept)
        rest = [step.tokens for step in session.generate(None, max_new_tokens=5, temperature=1.0, seed=3)]
    assert np.array_equal(whole, begun + rest)


@pytest.mark.parametrize("make", MODELS)
def test_prefill_is_close_to_steps_and_leaves_their_state(make: Callable[[], nn.Module]) -> None:
    with session_of(make) as session:
        session.reset(2)
        stepped, state = steps(session, TOKENS), session.snapshot().tensors
        session.reset(2)
        np.testing.assert_allclose(session.prefill(TOKENS), stepped, atol=1e-5)
        for name, value in session.snapshot().tensors.items():
            np.testing.assert_allclose(value, state[name], atol=1e-2 if make is Halved else 1e-5)


def test_two_sessions_of_one_model_do_not_meet() -> None:
    torch.manual_seed(0)
    model = Recurrence().eval()
    with open_model(model) as one, open_model(model) as two:
        alone = steps(one, TOKENS[:1])
        one.reset(1)
        rows = []
        for token, other in zip(TOKENS[0], TOKENS[1], strict=True):
            rows.append(one.step([token])[0])
            two.step([other])
        assert np.array_equal(np.stack(rows)[None], alone)


def test_beyond_the_capacity_the_state_stays() -> None:
    with session_of(Attention) as session:
        assert session.capacity == CAPACITY
        session.prefill(np.zeros((1, CAPACITY), np.int64))
        with pytest.raises(CapacityError, match=f"exceed the capacity of {CAPACITY}"):
            session.step([1])
        assert session.position == CAPACITY
        assert session.snapshot().tensors["00.keys"].shape[1] == CAPACITY


def test_generation_ends_at_the_capacity() -> None:
    with session_of(Attention) as session:
        assert len(list(session.generate(np.zeros((1, CAPACITY - 2), np.int64)))) == 3


def test_generation_without_a_capacity_needs_a_length() -> None:
    with session_of(Recurrence) as session, pytest.raises(InputError, match="max_new_tokens"):
        list(session.generate(TOKENS))


def test_texts_are_refused_without_an_alphabet() -> None:
    with session_of(Recurrence) as session, pytest.raises(InputError, match="no alphabet: give prompts as token ids"):
        list(session.generate("abc", max_new_tokens=2))


def test_state_of_other_weights_is_refused() -> None:
    with session_of(Recurrence) as one, open_model(Recurrence().eval()) as two:
        one.step([1])
        with pytest.raises(StateError):
            two.restore(one.snapshot())


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    with session_of(Recurrence) as one, session_of(Attention) as two:
        one.step([1])
        one.save(tmp_path / "state")
        with pytest.raises(StateError):
            two.load(tmp_path / "state")


@pytest.mark.parametrize("tokens", [[V], [-1], [0.5], [[1]], []])
def test_tokens_that_do_not_fit_are_refused(tokens: Any) -> None:
    with session_of(Recurrence) as session:
        with pytest.raises(InputError):
            session.step(tokens)
        assert session.position == 0


def test_step_that_gives_nan_leaves_the_state() -> None:
    class Overflowing(Recurrence):
        def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
            logits, after = super().step(tokens, state)
            return torch.where(tokens[:, None] == 3, torch.nan, logits), after

    with session_of(Overflowing) as session:
        session.step([1])
        before = session.snapshot().tensors
        with pytest.raises(NonFiniteError):
            session.step([3])
        assert session.position == 1
        assert all(np.array_equal(value, before[name]) for name, value in session.snapshot().tensors.items())


def test_functions_are_enough_to_open_a_session() -> None:
    torch.manual_seed(0)
    model = Recurrence().eval()
    functions = {"parallel": model, "step": model.step, "initial_state": model.initial_state}
    with open_model(vocabulary=V, **functions) as session:
        session.reset(2)
        expected = model(torch.from_numpy(TOKENS)).detach().numpy()
        np.testing.assert_allclose(session.prefill(TOKENS), expected, atol=1e-5)


class Greatest(nn.Module):
    """A running maximum, that begins with minus infinity."""

    vocabulary = V

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(V, E), nn.Linear(E, V)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens).cummax(1).values)
        return logits

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.maximum(state, self.embedding(tokens))
        return self.head(state), state

    def initial_state(self, batch: int) -> Tensor:
        return self.embedding.weight.new_full((batch, E), -torch.inf)


def test_fresh_state_with_infinity_is_kept_and_restored(tmp_path: Path) -> None:
    session = open_model(Greatest())
    fresh = session.snapshot()
    logits = session.step([1])
    session.restore(fresh)
    assert np.array_equal(session.step([1]), logits)
    session.restore(fresh)
    session.save(tmp_path / "state")
    session.step([2])
    session.load(tmp_path / "state")
    assert np.array_equal(session.step([1]), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_state_with_other_infinity_is_refused_and_left_as_it_was(value: float) -> None:
    session = open_model(Greatest())
    session.step([1])
    snapshot = session.snapshot()
    snapshot.tensors["00.state"][0, 0] = value
    session.step([2])
    before = session.snapshot()
    with pytest.raises(StateError, match="holds NaN or infinity"):
        session.restore(snapshot)
    assert np.array_equal(session.snapshot().tensors["00.state"], before.tensors["00.state"])


def test_right_model_whose_state_begins_with_infinity_passes_calls() -> None:
    report = verify_recurrent(Greatest().eval(), steps=8, levels=["calls", "isolation"], time_budget=6).report
    assert report.passed
