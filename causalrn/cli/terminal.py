"""What a terminal gets to see: no control characters of others, and nothing where nobody reads any more."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, TextIO

from causalrn.cli.text_lines import visible
from causalrn.cli.verbosity import note
from causalrn.errors import FallbackWarning


class ReaderGoneError(Exception):
    """Whoever read standard output has gone away, as `head` does."""


def as_shown(text: str, stream: TextIO) -> str:
    """A model's text for a stream: as it is in files and pipes, visible in a terminal."""
    return visible(text) if stream.isatty() else text


def show_fallbacks_as_notes() -> None:
    """Have what works in another way than asked said in one line, without a place in the source."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, FallbackWarning):
            note(f"Note: {message}")
        else:
            before(message, category, *place, **more)

    warnings.showwarning = show


def drop_output() -> None:
    """Let what is still written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
