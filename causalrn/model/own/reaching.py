"""What functions reach: the modules and tensors that they close over, have as defaults, or use of their file."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def modules_in(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    """The modules that a function reaches; not those in other modules."""
    return (part for part in reached(value, seen) if isinstance(part, nn.Module))


def reached(value: Any, seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """The modules and tensors that a value holds; not what is in the modules."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | Tensor):
        yield value
        return
    parts: list[Any] = []
    if isinstance(value, types.MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        parts = list(held_by(value).values())
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
        parts = list(vars(value).values())
    for part in parts:
        yield from reached(part, seen)


def held_by(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over, has as defaults and attributes, and uses of its file: see :func:`file_names`."""
    closed = {f"closure {i}": cell.cell_contents for i, cell in enumerate(function.__closure__ or ()) if filled(cell)}
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    attributes = {f"attribute {name}": value for name, value in vars(function).items()}
    return {
        **closed,
        **{f"default {name}": value for name, value in defaults.items()},
        **attributes,
        **file_names(function),
    }


def file_names(function: types.FunctionType) -> dict[str, Any]:
    """Names of its file that a function uses and that stand for a model, or for a function beside it."""
    found = {}
    for name in names_in(function.__code__):
        value = function.__globals__.get(name)
        own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        holds = type(value) in (dict, list, tuple) and next(modules_in(value, set()), None) is not None
        if isinstance(value, nn.Module | types.MethodType | functools.partial) or own or holds:
            found[name] = value
    return found


def names_in(code: types.CodeType) -> Iterator[str]:
    """Names of a file that a function uses, also in the comprehensions and functions inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from names_in(inner)


def filled(cell: types.CellType) -> bool:
    """Whether there is something in the cell of a closure."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
