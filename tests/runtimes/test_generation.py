"""Generation: greedy, sampled, stopped, batched, resumed."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.errors import CapacityError, InputError, StateError
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import open_session
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.runtimes.token_choice import choose_tokens, draw_tokens
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from tests.builders import RECITED, reciting_model

NO_STOP = ()


@pytest.fixture
def session(exact_bundle):
    with open_session(exact_bundle) as opened:
        yield opened


def _generate(session, prompts, **options):
    return np.array(
        [step.tokens for step in session.generate(prompts, GenerationOptions(stop_ids=NO_STOP, **options))]
    ).T


def test_greedy_takes_the_most_likely_token_of_each_step(session):
    generated = _generate(session, "abc", max_new_tokens=6)[0]
    session.reset()
    logits = session.prefill([[0, 3, 4, 5, 1]])[0, -1]
    for token in generated:
        assert token == logits.argmax()
        logits = session.step([token])[0]


def test_rows_of_a_batch_are_what_they_are_alone(session):
    batch = _generate(session, ["abc", "xyz"], max_new_tokens=8, temperature=1.0, seed=4)
    session.reset(1)
    assert (_generate(session, ["abc"], max_new_tokens=8, temperature=1.0, seed=4)[0] == batch[0]).all()


def test_seed_repeats_and_other_seeds_differ(session):
    texts = []
    for seed in (1, 1, 2):
        session.reset()
        texts.append(_generate(session, "abc", max_new_tokens=20, temperature=3.0, seed=seed).tolist())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 5}])
def test_resumed_generation_equals_uninterrupted_one(session, tmp_path, options):
    whole = _generate(session, "abc", max_new_tokens=20, **options)
    session.reset()
    first = _generate(session, "abc", max_new_tokens=7, **options)
    save_state(tmp_path / "state.safetensors", session.snapshot())
    session.reset()
    session.restore(load_state(tmp_path / "state.safetensors"))
    rest = _generate(session, None, max_new_tokens=13, **options)
    assert np.array_equal(np.concatenate([first, rest], axis=1), whole)


def test_generation_ends_at_the_capacity(session):
    generated = _generate(session, "abc")
    assert generated.shape == (1, 40 - 5 + 1)
    assert session.position == 40


def test_nothing_goes_on_from_a_token_that_found_no_room(session):
    _generate(session, "abc")
    with pytest.raises(InputError, match="nothing to go on from"):
        session.generate(None)


def test_stop_token_finishes_its_row_only(session):
    free = _generate(session, ["abc", "xyz"], max_new_tokens=12)
    stop = int(free[0, 3])
    session.reset(2)
    steps = list(session.generate(["abc", "xyz"], GenerationOptions(max_new_tokens=12, stop_ids=(stop,))))
    finished = [next((i for i, step in enumerate(steps) if step.finished[row]), None) for row in (0, 1)]
    expected = [next((i for i, t in enumerate(free[row]) if t == stop), None) for row in (0, 1)]
    assert finished == expected
    tokens = np.array([step.tokens for step in steps]).T
    assert np.array_equal(tokens[1], free[1, : len(steps)])
    assert [bool(step.active[0]) for step in steps] == [index <= expected[0] for index in range(len(steps))]


def test_stop_text_ends_generation(session):
    free = _generate(session, "abc", max_new_tokens=20)[0]
    letters = [t for t in free if t >= 3]
    text = session.card.alphabet.decode(letters[:2])
    session.reset()
    steps = list(session.generate("abc", GenerationOptions(max_new_tokens=20, stop=text, stop_ids=NO_STOP)))
    generated = session.card.alphabet.decode([int(step.tokens[0]) for step in steps])
    assert generated.endswith(text)
    assert steps[-1].finished[0]


def test_prompt_is_appended_bare_to_a_state(session):
    session.prefill([[0, 3]])
    list(session.generate("bc", GenerationOptions(max_new_tokens=1)))
    appended = session.last_logits
    session.reset()
    session.prefill([[0, 3, 4, 5]])
    first = session.last_logits.argmax(-1)
    session.step(first)
    assert np.allclose(session.last_logits, appended, atol=1e-5)


@pytest.fixture
def reciting():
    model = reciting_model()
    return RecurrentSession(RecurrentCell.from_model(model), ModelCard(model.config, Alphabet("bytes")))


def _text(session, prompt, count):
    return "".join(step.text for step in session.generate(prompt, max_new_tokens=count))


@pytest.mark.parametrize("first", range(1, len(RECITED) - 1))
def test_character_that_a_call_has_begun_is_completed_by_the_next(reciting, tmp_path, first):
    whole = RECITED[:-3].decode(errors="replace")
    text = _text(reciting, "x", first)
    reciting.save(tmp_path / "state")
    again = reciting.snapshot()
    reciting.reset()
    reciting.load(tmp_path / "state")
    assert text + _text(reciting, None, len(RECITED) - first) == whole
    assert reciting.text_tails == (RECITED[-3:],)
    reciting.restore(again)
    assert text + _text(reciting, None, 1) + _text(reciting, None, len(RECITED) - first - 1) == whole


def test_rows_of_a_batch_keep_their_begun_characters(reciting):
    assert [step.texts for step in reciting.generate(["x", "y"], max_new_tokens=2)] == [("n", "n"), ("", "")]
    assert reciting.text_tails == (b"\xc3", b"\xc3")
    assert [step.texts for step in reciting.generate(None, max_new_tokens=1)] == [("é", "é")]
    assert reciting.text_tails == ()


def test_begun_character_that_is_not_completed_is_one_replacement_character(reciting):
    assert _text(reciting, "x", 2) == "n"
    assert _text(reciting, "z", 1) == "\ufffd", "what was begun before the prompt"
    assert reciting.text_tails == (b"\xe2",)
    reciting.reset()
    assert _text(reciting, "x", 2) == "n"
    reciting.step([120])
    assert reciting.text_tails == (), "what follows is no longer what was generated"


def test_begun_character_is_shown_where_a_row_ends(reciting):
    steps = list(reciting.generate("x", stop_ids=(0xC3,)))
    assert [step.text for step in steps] == ["n", "\ufffd"]
    assert reciting.text_tails == ()
    reciting.reset()
    capacity = reciting.capacity
    reciting.prefill([[0] * (capacity - 3)])
    reciting.restore(dataclasses.replace(reciting.snapshot(), text_tails=(b"\xe2\x82",)))
    assert "".join(step.text for step in reciting.generate(None)).count("\ufffd") == 1


@pytest.mark.parametrize("tails", [(b"\xc3\xa9",), (b"a\xc3",), (b"\x80",), (b"\xe0\x80",), (b"\xc3", b"")], ids=str)
def test_tail_that_begins_no_character_is_refused(reciting, tails):
    reciting.prefill([[1, 2]])
    with pytest.raises(StateError, match="begin no character"):
        reciting.restore(dataclasses.replace(reciting.snapshot(), text_tails=tails))


def test_letters_have_no_tails(session):
    with pytest.raises(StateError, match="begin no character"):
        session.restore(dataclasses.replace(session.snapshot(), text_tails=(b"\xc3",)))


LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32))


def _shares(**options):
    draws = np.concatenate(
        [choose_tokens(LOGITS, GenerationOptions(temperature=1.0, **options), p) for p in range(4000)]
    )
    return np.bincount(draws, minlength=4) / 4000


@pytest.mark.parametrize("vocabulary", [2, 7, 29, 256, 1001])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_rows_are_drawn_as_alone(vocabulary, spread):
    rng = np.random.default_rng(vocabulary)
    for batch in (4, 5, 16, 33):
        logits = rng.normal(0, spread, (batch, vocabulary)).astype(np.float32)
        logits[0] = logits[0, 0]  # ties
        options = [
            GenerationOptions(temperature=float(t), top_p=float(p), seed=int(seed))
            for t, p, seed in zip(
                rng.choice([1e-300, 0.3, 1.0, 2.0], batch),
                rng.choice([1e-9, 0.5, 0.9, 1.0], batch),
                rng.integers(0, 2**63, batch),
                strict=True,
            )
        ]
        rows, places = rng.integers(0, 9, batch).tolist(), rng.integers(0, 9999, batch).tolist()
        together = draw_tokens(logits, options, rows, places)
        alone = [
            int(draw_tokens(logits[[n]], options[n : n + 1], rows[n : n + 1], places[n : n + 1])[0])
            for n in range(batch)
        ]
        assert together.tolist() == alone


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_p": 0.75}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.0001}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.9}, [0.526, 0.316, 0.158, 0]),
    ],
)
def test_sampling_follows_the_distribution(options, expected):
    assert np.abs(_shares(**options) - expected).max() < 0.03
    assert [share == 0 for share in _shares(**options)] == [share == 0 for share in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
        ({"max_new_tokens": 0}, "max new tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": ""}, "stop text is empty"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GenerationOptions(**options)


def test_prompts_that_do_not_fit_take_nothing(session):
    with pytest.raises(CapacityError):
        session.generate("a" * 39)
    wrong: list[Any] = [[], [[]], [[3], []], [[3], [4, 29]], [3, 4]]
    for prompts in wrong:
        with pytest.raises(InputError):
            session.generate(prompts)
    with pytest.raises(CapacityError):
        session.generate(["abc", "a" * 39])
    with pytest.raises(InputError, match="nothing to go on from"):
        session.generate(None)
    with pytest.raises(InputError, match="not in the alphabet"):
        session.generate("a-b")
    assert session.position == 0
