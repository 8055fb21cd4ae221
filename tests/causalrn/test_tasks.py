"""The copying task and the alphabets."""

import numpy as np
import pytest

from causalrn.alphabet import Alphabet, guess_alphabet, parse_token_ids
from causalrn.card import ModelCard
from causalrn.config import CausalRNConfig
from causalrn.errors import ConfigError, InputError
from causalrn.tasks import IGNORE, CopyTask, task_from_json


def test_targets_are_the_next_inputs_from_the_separator_on():
    task = CopyTask(5)
    strings = task.sample(np.random.default_rng(0), 20)
    inputs, targets = task.inputs(strings), task.targets(strings)
    assert inputs.shape == targets.shape == (20, task.capacity)
    assert (targets[:, : task.length + 1] == IGNORE).all()
    assert (targets[:, task.length + 1 : -1] == inputs[:, task.length + 2 :]).all()
    assert (targets[:, -1] == 2).all()


def test_samples_are_letters_and_follow_the_seed():
    task = CopyTask(50)
    first, again = (task.sample(np.random.default_rng(7), 40) for _ in range(2))
    assert (first == again).all()
    assert (first.min(), first.max()) == (3, 28)


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ConfigError, match="string length"):
        CopyTask(length)


def test_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="this version knows copy"):
        task_from_json({"name": "sort", "length": 3})


def test_letters_prompt_has_markers_and_text_comes_back():
    alphabet = Alphabet("letters")
    assert alphabet.prompt("abz") == [0, 3, 4, 28, 1]
    assert alphabet.decode([3, 4, 28, 2]) == "abz"


def test_letters_refuse_other_characters_by_place():
    with pytest.raises(InputError, match=r"'B' at place 2 .* letters a to z"):
        Alphabet("letters").encode("aBc")


def test_bytes_take_any_text():
    alphabet = Alphabet("bytes")
    assert alphabet.decode(alphabet.prompt("naïve")) == "naïve"
    assert alphabet.stop_ids == ()


def test_alphabet_is_known_by_its_size():
    assert [guess_alphabet(size) for size in (29, 256, 30)] == ["letters", "bytes", None]


def test_token_ids_are_read_from_text():
    assert parse_token_ids(["3", "4"]) == [3, 4]
    with pytest.raises(InputError, match="token ids"):
        parse_token_ids(["abc"])


def test_card_refuses_an_alphabet_of_another_size():
    with pytest.raises(ConfigError, match="alphabet bytes has 256 tokens, the model 29"):
        ModelCard(CausalRNConfig(29, 8, 8, 1, 10), Alphabet("bytes"))
