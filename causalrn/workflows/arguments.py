"""Checks of what workflows are asked: wrong types and values become one clear error that names the argument.

Arguments are named in backticks, as `drift_steps`; the command line shows such a name as its own option.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.files import as_path
from causalrn.errors import InputError

PathLike = str | os.PathLike[str]
"""A path as text or `pathlib.Path`, or an object that stands for its folder, as the results of workflows do."""
MOST = 1 << 31
"""More than anybody asks for: sequences, steps, sizes."""
LARGEST_SEED = (1 << 63) - 1
MOST_MIB = 1 << 24


def optional_path(value: PathLike | None, field: str) -> Path | None:
    """A path, or None.

    Raises:
        InputError: something that names no path.
    """
    return None if value is None else as_path(value, field)


def whole_number(value: Any, field: str, least: int = 0, most: int = MOST) -> int:
    """A whole number within bounds; numpy's integers, too.

    Raises:
        InputError: something else.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not least <= value.__index__() <= most:
        raise InputError(f"`{field}` is {value!r}: it must be a whole number from {least:,} to {most:,}")
    return int(value.__index__())


def mib(value: Any, field: str, least: int = 0) -> int:
    """Bytes of a whole number of MiB.

    Raises:
        InputError: something else.
    """
    return whole_number(value, field, least, MOST_MIB) << 20


def optional_whole(value: Any, field: str, least: int = 0, most: int = MOST) -> int | None:
    """The same, or None."""
    return None if value is None else whole_number(value, field, least, most)


def finite_number(value: Any, field: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds.

    Raises:
        InputError: something else.
    """
    is_number = hasattr(value, "__float__") and not isinstance(value, bool | str | bytes)
    if not is_number or not math.isfinite(float(value)) or not least <= float(value) <= most:
        within = "" if math.isinf(least) and math.isinf(most) else f" from {least:g} to {most:g}"
        raise InputError(f"`{field}` is {value!r}: it must be a finite number{within}")
    return float(value)


def optional_number(value: Any, field: str, least: float = -math.inf, most: float = math.inf) -> float | None:
    """The same, or None."""
    return None if value is None else finite_number(value, field, least, most)


def optional_share(percent: Any, field: str) -> float | None:
    """A percentage, 0 to 100, as a share; or None."""
    return None if percent is None else finite_number(percent, field, 0, 100) / 100


def choice(value: Any, field: str, choices: Iterable[str]) -> str:
    """One of some words.

    Raises:
        InputError: another one.
    """
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"`{field}` {value!r} is unknown: choose one of {', '.join(known)}")
    return value


def optional_choice(value: Any, field: str, choices: Iterable[str]) -> str | None:
    """The same, or None."""
    return None if value is None else choice(value, field, choices)


def flag(value: Any, field: str) -> bool:
    """True or False.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"`{field}` is {value!r}: it must be True or False")
    return value


def text_argument(value: str, field: str) -> str:
    """A name whose values are not known beforehand.

    Raises:
        InputError: no text.
    """
    if not isinstance(value, str):
        raise InputError(f"`{field}` is {value!r}: give a name as text")
    return value


def listed(value: Any, field: str) -> tuple[Any, ...]:
    """One value or several, as a tuple; None and nothing are empty.

    Raises:
        InputError: what cannot be iterated over and is no single word or number.
    """
    if value is None:
        return ()
    if isinstance(value, str | bytes | os.PathLike) or hasattr(value, "__index__"):
        return (value,)
    if not isinstance(value, Iterable):
        raise InputError(f"`{field}` is {value!r}: give one value or a list of them")
    return tuple(value)


def narrow_pool(pool8: Any, pool16: Any) -> str:
    """Element type of pool rows that two flags ask for; "float32" for none.

    Raises:
        InputError: both of them.
    """
    from causalrn.bundle.quantization import NARROW_POOLS  # numpy comes with it, and `doctor` starts without

    given = {"pool8": flag(pool8, "pool8"), "pool16": flag(pool16, "pool16")}
    if all(given.values()):
        raise InputError("`pool8` and `pool16` contradict each other: leave one out")
    return next((NARROW_POOLS[name] for name, asked in given.items() if asked), "float32")
