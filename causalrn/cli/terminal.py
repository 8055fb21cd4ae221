"""What a terminal gets to see: no control characters of others, and nothing where nobody reads any more."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import warnings
from typing import Any, TextIO

from causalrn.cli.verbosity import note
from causalrn.errors import FallbackWarning

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed: with the others, names in files could move the cursor, hide text or ask the terminal."""


class ReaderGoneError(Exception):
    """Whoever read standard output has gone away, as `head` does."""


def visible(text: str) -> str:
    r"""Text of others with its control characters spelled out.

    Example:
        >>> visible("weights\x1b[2J.bin")
        'weights\\x1b[2J.bin'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_WIDEST = 100
"""Columns that sentences take at most: longer lines are hard to read."""


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


def as_shown(text: str, stream: TextIO) -> str:
    """A model's text for a stream: as it is in files and pipes, visible in a terminal."""
    return visible(text) if stream.isatty() else text


def show_fallbacks_as_notes() -> None:
    """Have what works in another way than asked said in one line, without a place in the source."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, FallbackWarning):
            note(wrapped(f"Note: {visible(str(message))}", sys.stderr))
        else:
            before(message, category, *place, **more)

    warnings.showwarning = show


def drop_output() -> None:
    """Let what is still written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
