"""Text of choices: whole characters, and no part of a stop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causalrn.bundle.alphabet import Alphabet
from causalrn.serving.texts import ChoiceText, token_text

BYTES, LETTERS = Alphabet("bytes"), Alphabet("letters")


@given(
    st.lists(st.integers(3, 5), max_size=30),
    st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3),
)
def test_stop_never_shows_and_nothing_else_is_lost(tokens, stops) -> None:
    shown, taken, stopped = ChoiceText(LETTERS, stops), [], False
    text = ""
    for token in tokens:
        text += shown.take(token).text
        taken.append(token)
        stopped = any(tuple(taken[-len(stop) :]) == stop for stop in stops)
        if stopped:
            break
    text += shown.end(is_stopped=stopped).text
    whole = LETTERS.decode(taken)
    cut = max((len(stop) for stop in stops if tuple(taken[-len(stop) :]) == stop), default=0) if stopped else 0
    assert text == whole[: len(whole) - cut]


def test_text_comes_as_soon_as_it_is_certain() -> None:
    text = ChoiceText(LETTERS, ((3, 4, 5),))
    assert [text.take(token).text for token in (3, 4, 3, 4, 6, 3)] == ["", "", "ab", "", "abd", ""]
    assert text.end(is_stopped=False).text == "a"


def test_characters_come_whole() -> None:
    text = ChoiceText(BYTES)
    assert [text.take(token).text for token in "é€".encode()] == ["", "é", "", "", "€"]
    text.take("é".encode()[0])
    assert text.end(is_stopped=False).text == "\N{REPLACEMENT CHARACTER}"
    first = ChoiceText(BYTES)
    first.take("é".encode()[0])
    assert first.end(is_stopped=False, keeps_tail=True).text == ""
    assert ChoiceText(BYTES, (), first.tail).take("é".encode()[1]).text == "é"


def test_tokens_without_alphabet_are_numbers() -> None:
    text = ChoiceText(None, ((7, 8),))
    assert [text.take(token).text for token in (5, 7, 9)] == ["5 ", "", "7 9 "]


@pytest.mark.parametrize(
    ("alphabet", "token", "text"),
    [
        (LETTERS, 3, "a"),
        (LETTERS, 2, "<eos>"),
        (LETTERS, 1, "<sep>"),
        (BYTES, 65, "A"),
        (BYTES, 200, "bytes:\\xc8"),
        (None, 4, "4"),
    ],
)
def test_tokens_have_names(alphabet, token, text) -> None:
    assert token_text(alphabet, token) == text
