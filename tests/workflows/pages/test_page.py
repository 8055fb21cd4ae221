"""What all pages share."""

from __future__ import annotations

import pytest

from causalrn.workflows.pages.page import with_code


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("the model has no `blocks`, and <b>", "the model has no <code>blocks</code>, and &lt;b&gt;"),
        ("`a<b`", "<code>a&lt;b</code>"),
        ("one ` only, a < b", "one ` only, a &lt; b"),
        ("", ""),
    ],
)
def test_names_in_backticks_are_code_and_everything_is_escaped(text, html):
    assert with_code(text) == html
