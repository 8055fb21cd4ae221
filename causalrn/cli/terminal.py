"""What a terminal gets to see: no control characters of others, and nothing where nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from typing import Any, TextIO

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


def as_shown(text: str, stream: TextIO) -> str:
    """A model's text for a stream: as it is in files and pipes, visible in a terminal."""
    return visible(text) if stream.isatty() else text


def show_fallbacks_as_notes() -> None:
    """Have what works in another way than asked said in one line, without a place in the source."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, FallbackWarning):
            with contextlib.suppress(OSError):
                print(f"Note: {visible(str(message))}", file=sys.stderr)
        else:
            before(message, category, *place, **more)

    warnings.showwarning = show


def drop_output() -> None:
    """Let what is still written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
