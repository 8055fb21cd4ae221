"""Arguments of `bench`, `predict` and `profile` as callers write them, checked: a value or several, paths as text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from causalrn.errors import InputError

_T = TypeVar("_T")
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Counts = int | Iterable[int]
MOST_TOKENS, MOST_THREADS = 1 << 24, 256


def read_path(name: str, value: str | os.PathLike[str]) -> Path:
    """A path.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise InputError(f"{name} is {value!r}: name a path, as text or Path")
    return Path(value)


def read_folders(value: Paths) -> list[Path]:
    """One folder or several, each a bundle or a checkpoint folder.

    Raises:
        InputError: none, or something else.
    """
    several = [value] if isinstance(value, (str, bytes, os.PathLike)) else _listed("folders", value)
    if not several:
        raise InputError("folders is empty: name a bundle or a checkpoint folder")
    return [read_path("folders", each) for each in several]


def read_counts(name: str, value: Counts, least: int, most: int = MOST_TOKENS) -> tuple[int, ...]:
    """One whole number or several, each once, in their order.

    Raises:
        InputError: something else, or a number out of range.
    """
    several = [value] if isinstance(value, int) else _listed(name, value)
    return tuple(dict.fromkeys(read_count(name, each, least, most) for each in several))


def read_count(name: str, value: int, least: int, most: int = MOST_TOKENS) -> int:
    """A whole number.

    Raises:
        InputError: something else, or a number out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r}: give a whole number")
    number = int(value)
    if not least <= number <= most:
        raise InputError(f"{name} {number} is out of range: it lies between {least:,} and {most:,}")
    return number


def read_number(name: str, value: float, least: float, most: float = math.inf) -> float:
    """A finite number.

    Raises:
        InputError: something else, or a number out of range.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most):
        bounds = f"between {least:g} and {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise InputError(f"{name} is {value!r}: give a number {bounds}")
    return number


def read_name(name: str, value: str) -> str:
    """A name.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}: give a name as text")
    return value


def read_names(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several, each once, in their order.

    Raises:
        InputError: something else.
    """
    several = [value] if isinstance(value, str) else _listed(name, value)
    return tuple(dict.fromkeys(read_name(name, each) for each in several))


def _listed(name: str, value: Iterable[_T]) -> list[_T]:
    try:
        return list(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}: give one value or a sequence of them") from None
