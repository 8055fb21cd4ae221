"""Where prompts come from: the command line, a file, standard input, or somebody who types them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from causalrn.bundle.disk.reading import read_input
from causalrn.cli.verbosity import note
from causalrn.errors import InputError
from causalrn.runtimes.session import Session

STANDARD_INPUT = "-"
_MOST_BYTES = 64 << 20


def read_prompts(session: Session, prompts: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Prompts as they were given: "-" among them stands for standard input, and `file` comes last.

    A file has a prompt per line, empty ones left out. Of a model of bytes it is one prompt as a whole, but for the end
    of its last line.

    Raises:
        InputError: a file that cannot be read or holds no prompt, or standard input that does not end.
    """
    found: list[str] = []
    for prompt in prompts:
        found += _split(session, _standard_input(), "-") if prompt == STANDARD_INPUT else [prompt]
    if file is not None:
        content = _standard_input() if str(file) == STANDARD_INPUT else read_input(file, "name a file of prompts")
        found += _split(session, content, str(file))
    return tuple(found)


def _standard_input() -> bytes:
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InputError(f"standard input holds more than {_MOST_BYTES >> 20} MiB: put prompts into several files")
    return content


def _split(session: Session, content: bytes, source: str) -> list[str]:
    text = content.decode("utf-8", errors="surrogateescape")
    name = "standard input" if source == STANDARD_INPUT else source
    is_bytes = session.card.alphabet is not None and session.card.alphabet.name == "bytes"
    rows = [text.removesuffix("\n").removesuffix("\r")] if is_bytes else [line.strip() for line in text.splitlines()]
    rows = [row for row in rows if row]
    if not rows:
        raise InputError(f"{name} holds no prompt: write one per line")
    return rows


def typed_prompts(session: Session) -> Iterator[str]:
    """Prompts as they are typed, a line each, until an empty line or the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited, and those before be had again
        task = "" if session.card.task is None else f" ({session.card.task.describe()})"
        note(f"{session.card.config.describe()}{task}; an empty line ends")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip("\r\n")
        except EOFError:
            return
        if not line:
            return
        yield line


def note_lengths(session: Session, prompts: Sequence[str]) -> tuple[str, ...]:
    """Say on standard error which prompts have a length that the model was not trained on; gives the sentences.

    Args:
        prompts: into a fresh state.
    """
    task = session.card.task
    if task is None:
        return ()
    words = dict.fromkeys(task.unlike_training(prompt) for prompt in prompts)
    notes = tuple(f"{each}: what comes may be wrong" for each in words if each)
    for each in notes:
        note(f"note: {each}")
    return notes
