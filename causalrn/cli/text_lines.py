"""Texts as terminals show them: control characters of others spelled out, lines broken between words."""

from __future__ import annotations

import itertools
import re
import shutil
from typing import TextIO

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed: with the others, names in files could move the cursor, hide text or ask the terminal."""
_WIDEST = 100
"""Columns that sentences take at most: longer lines are hard to read."""


def visible(text: str) -> str:
    r"""Text of others with its control characters spelled out.

    Example:
        >>> visible("weights\x1b[2J.bin")
        'weights\\x1b[2J.bin'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def breaks(text: str, width: int) -> list[int]:
    """Where lines of a text break, between words and behind the blanks there; a word that is too long stays whole.

    Example:
        >>> breaks("one two three", 8)
        [8]
    """
    places, start = [], 0
    for line in text.splitlines(keepends=True):
        column = 0
        for word in re.finditer(r"\s*\S+\s?", line):
            if column and column + len(word[0].rstrip()) > width:
                places.append(start + word.start() + len(word[0]) - len(word[0].lstrip()))
                column = 0
            column += len(word[0])
        start += len(line)
    return places


def wrapped(text: str, stream: TextIO) -> str:
    """A sentence as a stream shows it: broken between words in a terminal, elsewhere one line, which `grep` finds."""
    if not stream.isatty():
        return text
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    ends = [0, *breaks(text, width), len(text)]
    return "\n".join(text[start:end].rstrip() for start, end in itertools.pairwise(ends))
