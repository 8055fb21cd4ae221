"""What a terminal gets to see: no control characters of others, and nothing where nobody reads any more."""

from __future__ import annotations

import os
import re
import sys

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


def drop_output() -> None:
    """Let what is still written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
