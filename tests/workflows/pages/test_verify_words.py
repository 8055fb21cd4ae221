"""What a verification's page says in words."""

import pytest

from causalrn.runtimes.parity.results import ALL_LEVELS, LevelResult
from causalrn.workflows.pages.verify_words import LEVEL_WORDS, describe_shares, headline


def result(level, runtime, passed):
    return LevelResult(level, runtime, passed, "")


def test_every_level_is_explained():
    assert list(LEVEL_WORDS) == list(ALL_LEVELS)


def test_headline_names_what_fails_where():
    good = [result("logits", "recurrent", True), result("state", "recurrent", True)]
    bad = [result("logits", "native, all ids", False), result("logits", "native", False)]
    assert headline([]) == ""
    assert headline(good) == "All 2 checks pass."
    assert headline(good[:1]) == "The only check passes."
    assert headline([*good, bad[0]]) == "1 of 3 checks fails: native at logits."
    other = result("drift", "node", False)
    assert headline([*bad, other]) == "3 of 3 checks fail: native at logits; node at drift."


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([(8, 8)] * 17, "100 % at all 17 lengths"),
        ([(8, 8)], "100 % at length 1"),
        ([(8, 8), (8, 8), (8, 6)], "100 % at lengths 1 to 2, 75 % at 3"),
        ([(3, 1), (8, 8), (4, 2), (2, 1)], "33.33 % at length 1, 100 % at 2, 50 % at 3 to 4"),
    ],
)
def test_equal_shares_stand_together(counts, words):
    assert describe_shares(counts, [str(place + 1) for place in range(len(counts))], "length") == words
