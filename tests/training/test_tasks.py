"""Tasks: what they ask for, that it can be known, and what they refuse. And the alphabets."""

import itertools

import numpy as np
import pytest

from causalrn.bundle.alphabet import BOS, EOS, SEP, Alphabet, guess_alphabet, parse_token_ids
from causalrn.errors import ConfigError, InputError
from causalrn.model.config import CausalRNConfig
from causalrn.training.card import ModelCard
from causalrn.training.tasks import (
    IGNORE,
    PURPOSES,
    CopyMixedTask,
    CopyTask,
    Corpus,
    LookupTask,
    TextTask,
    make_task,
    task_from_entries,
)

LETTER_TASKS = [CopyTask(5), CopyMixedTask(5), LookupTask(9, 2)]


def _answers(examples):
    """Per row the given string, what stands behind SEP before the answer, and the answer."""
    for inputs, targets in zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True):
        first = next(i for i, target in enumerate(targets) if target != IGNORE)
        string, given = inputs[1 : inputs.index(SEP)], inputs[inputs.index(SEP) + 1 : first + 1]
        yield string, given, list(itertools.takewhile(lambda token: token != IGNORE, targets[first:]))


@pytest.mark.parametrize("task", LETTER_TASKS, ids=lambda task: task.name)
def test_targets_are_the_next_inputs(task):
    examples = task.sample(np.random.default_rng(0), 200)
    assert examples.inputs.shape == examples.targets.shape == (200, task.capacity)
    assert (examples.inputs[:, 0] == BOS).all()
    known = examples.targets[:, :-1] != IGNORE
    assert (examples.targets[:, :-1][known] == examples.inputs[:, 1:][known]).all()
    assert set(examples.targets[:, -1]) <= {EOS, IGNORE}


@pytest.mark.parametrize("task", [CopyTask(5), CopyMixedTask(5)], ids=lambda task: task.name)
def test_copying_asks_for_the_string_and_its_end(task):
    for string, given, answer in _answers(task.sample(np.random.default_rng(0), 200)):
        assert given == []
        assert answer == [*string, EOS]


def test_mixed_lengths_are_all_there_and_as_often():
    lengths = [len(string) for string, _, _ in _answers(CopyMixedTask(4).sample(np.random.default_rng(0), 2000))]
    assert set(lengths) == {1, 2, 3, 4}
    assert min(lengths.count(length) for length in range(1, 5)) > 400


@pytest.mark.parametrize("key", [1, 2, 3])
def test_lookup_asks_for_what_followed_a_unique_gram(key):
    starts = set()
    for string, given, answer in _answers(LookupTask(8, key).sample(np.random.default_rng(0), 300)):
        places = [i for i in range(len(string)) if string[i : i + key] == given]
        assert len(given) == key
        assert len(places) == 1
        assert answer == [*string[places[0] + key :], EOS]
        assert len(answer) >= 2
        starts.add(places[0])
    assert starts == set(range(8 - key))


def test_samples_are_letters_and_follow_the_seed():
    first, again = (CopyTask(50).sample(np.random.default_rng(7), 40).inputs[:, 1:51] for _ in range(2))
    assert (first == again).all()
    assert (first.min(), first.max()) == (3, 28)


def test_strings_to_judge_by_are_never_trained_on():
    task = CopyTask(16)
    seen: dict[bytes, str] = {}
    for purpose in PURPOSES:
        for seed in range(3):
            for step in range(20 if purpose == "train" else 2):
                for row in task.draw(purpose, 64, seed, step).inputs:
                    assert seen.setdefault(row.tobytes(), purpose) == purpose


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(100)) * 10)  # the last tenth is the last hundred
    return path


def test_text_asks_for_every_next_byte(text):
    examples = TextTask(20, Corpus.open(text)).draw("train", 50)
    assert examples.inputs.shape == (50, 20)
    assert (examples.targets[:, :-1] == examples.inputs[:, 1:]).all()
    assert examples.target_count == 50 * 20


def test_text_to_judge_by_is_the_last_tenth(tmp_path):
    (tmp_path / "t").write_bytes(b"a" * 900 + b"b" * 100)
    task = TextTask(20, Corpus.open(tmp_path / "t"))
    assert set(task.draw("train", 50).targets.ravel()) == {ord("a")}
    assert set(task.draw("evaluate", 50).targets.ravel()) == {ord("b")}


def test_text_without_its_file_is_named(text):
    with pytest.raises(InputError, match="name a file with `text`"):
        TextTask(20).draw("verify", 3)
    with pytest.raises(InputError, match="100 bytes for evaluation are too few for length 100"):
        TextTask(100, Corpus.open(text))
    with pytest.raises(InputError, match="no such file"):
        Corpus.open(text.with_name("missing"))
    text.write_bytes(b"")
    with pytest.raises(InputError, match="is empty: name a file with text"):
        Corpus.open(text)


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_are_all_there_in_order(parts):
    examples = CopyTask(3).draw("train", 20)
    pieces = examples.split(parts)
    assert len(pieces) == parts
    assert (np.concatenate([piece.inputs for piece in pieces]) == examples.inputs).all()
    assert sum(piece.target_count for piece in pieces) == examples.target_count


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ConfigError, match="string length"):
        CopyTask(length)


@pytest.mark.parametrize(
    ("length", "key", "message"),
    [(5, 5, "key 5 and length 5 contradict"), (5, 0, "key 0"), (400, 1, "key 1 is too short for length 400")],
)
def test_impossible_keys_are_refused(length, key, message):
    with pytest.raises(ConfigError, match=message):
        LookupTask(length, key)


@pytest.mark.parametrize("task", [*LETTER_TASKS, TextTask(12)], ids=lambda task: task.name)
def test_json_round_trip(task):
    assert task_from_entries(task.entries()) == task


def test_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="this version knows copy, copy-mixed, lookup, text"):
        task_from_entries({"name": "sort", "length": 3})
    with pytest.raises(ConfigError, match="task text has unknown entries: corpus"):
        task_from_entries({"name": "text", "length": 3, "corpus": "x"})
    with pytest.raises(ConfigError, match="task copy and key contradict each other"):
        make_task("copy", 5, key=2)


def test_letters_prompt_has_markers_and_text_comes_back():
    alphabet = Alphabet("letters")
    assert alphabet.prompt("abz") == [0, 3, 4, 28, 1]
    assert alphabet.decode([3, 4, 28, 2]) == "abz"


def test_blank_among_letters_is_the_separator():
    assert Alphabet("letters").prompt("abz az") == [0, 3, 4, 28, 1, 3, 28]
    for text in (" ", "abc ", " abc", "a  b", "a b c"):
        with pytest.raises(InputError, match="a blank stands for SEP: write one"):
            Alphabet("letters").prompt(text)


def test_letters_refuse_other_characters_by_place():
    with pytest.raises(InputError, match=r"'B' at place 2 .* letters a to z"):
        Alphabet("letters").encode("aBc")


def test_bytes_take_any_text():
    alphabet = Alphabet("bytes")
    assert alphabet.prompt("a\udcff") == [97, 255]  # as Python hands over what is no UTF-8
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


@pytest.mark.parametrize(
    ("task", "prompt", "words"),
    [
        (CopyTask(3), "abc", ""),
        (CopyTask(3), "a", "a prompt of 1 letter; trained on 3"),
        (CopyTask(3), "abcd", "a prompt of 4 letters; trained on 3"),
        (CopyMixedTask(3), "a", ""),
        (CopyMixedTask(3), "abc", ""),
        (CopyMixedTask(3), "abcd", "a prompt of 4 letters; trained on 1 to 3"),
        (LookupTask(8, 2), "abcdefgh cd", ""),
        (LookupTask(8, 2), "abcdefgh c", "a prompt of 8 letters, a blank and 1 letter; trained on 8, a blank and 2"),
        (LookupTask(8, 2), "abcdefgh", "a prompt of 8 letters and no blank; trained on 8, a blank and 2 of them"),
    ],
    ids=str,
)
def test_prompts_unlike_those_of_training_are_told_apart(task, prompt, words):
    found = task.unlike_training(prompt)
    assert found.startswith(words)
    assert bool(found) == bool(words)
