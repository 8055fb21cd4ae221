"""What `bench`, `predict` and `profile` are all asked: folders, and whole numbers of which several may be named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from causalrn.bundle.disk.files import as_path
from causalrn.errors import InputError
from causalrn.workflows.arguments import PathLike, listed, whole_number

Paths = PathLike | Iterable[PathLike]
Counts = int | Iterable[int]
MOST_TOKENS, MOST_THREADS = 1 << 24, 256


def folder_paths(value: Paths) -> list[Path]:
    """One folder or several, each a bundle or a checkpoint folder.

    Raises:
        InputError: none, or something that names no path.
    """
    several = [as_path(each, "folders") for each in listed(value, "folders")]
    if not several:
        raise InputError("`folders` is empty: name a bundle or a checkpoint folder")
    return several


def whole_numbers(value: Counts, field: str, least: int, most: int = MOST_TOKENS) -> tuple[int, ...]:
    """One whole number or several, each once, in their order.

    Raises:
        InputError: something else, or a number out of bounds.
    """
    return tuple(dict.fromkeys(whole_number(each, field, least, most) for each in listed(value, field)))
