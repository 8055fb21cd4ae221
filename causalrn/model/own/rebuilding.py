"""Copies of what copy.deepcopy leaves as it is: functions, which would call into the original, wherever they are."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

from causalrn.model.own.reaching import file_names, filled, modules_in


class Rebuilder:
    """Copies values, and functions over copies of what they hold; all copies of one belong together.

    Attributes:
        memo: by `id` of an original, its copy, as copy.deepcopy keeps it; copies stand for themselves.
    """

    def __init__(self) -> None:
        self.memo: dict[int, Any] = {}
        self._mended: set[int] = set()

    @property
    def copies(self) -> set[int]:
        """By `id`, all that was made here."""
        originals = id(self.memo)  # copy.deepcopy keeps a list of them under this number
        return {id(made) for original, made in self.memo.items() if original not in (id(made), originals)}

    def rebuild(self, value: Any) -> Any:
        """A copy of a value.

        Raises:
            Exception: whatever a value raises that cannot be copied.
        """
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, types.FunctionType):
            return self._rebuild_function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(self.rebuild(value.__func__), self.rebuild(value.__self__))
        if isinstance(value, functools.partial):
            named = {name: self.rebuild(part) for name, part in value.keywords.items()}
            return functools.partial(self.rebuild(value.func), *map(self.rebuild, value.args), **named)
        made = copy.deepcopy(value, self.memo)
        for part in list(self.memo.values()):
            self.memo.setdefault(id(part), part)
        return self._mend(made, self.copies)

    def _rebuild_function(self, function: types.FunctionType) -> types.FunctionType:
        if next(modules_in(function, set()), None) is None and not function.__closure__:
            return function
        used = file_names(function)
        names = dict(function.__globals__) if used else function.__globals__
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        made = types.FunctionType(function.__code__, names, function.__name__, None, cells or None)
        self.memo[id(function)] = made  # before what it holds: that may hold it
        self.memo[id(made)] = made
        made.__module__, made.__qualname__, made.__doc__ = function.__module__, function.__qualname__, function.__doc__
        if function.__defaults__:
            made.__defaults__ = tuple(self.rebuild(part) for part in function.__defaults__)
        if function.__kwdefaults__:
            made.__kwdefaults__ = {name: self.rebuild(part) for name, part in function.__kwdefaults__.items()}
        vars(made).update({name: self.rebuild(value) for name, value in vars(function).items()})
        for old, new in zip(function.__closure__ or (), cells, strict=True):
            self.memo[id(new)] = new
            if filled(old):
                new.cell_contents = self.rebuild(old.cell_contents)
        names |= {name: self.rebuild(value) for name, value in used.items()}
        return made

    def _mend(self, value: Any, copies: set[int]) -> Any:
        """The same, with functions inside it made anew: containers and objects that are copies are changed in place."""
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            return self.rebuild(value)
        if isinstance(value, tuple):
            parts = [self._mend(part, copies) for part in value]
            if all(new is old for new, old in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if id(value) not in copies or id(value) in self._mended:
            return value
        self._mended.add(id(value))
        for held, place, part in entries_of(value):
            new = self._mend(part, copies)
            if new is not part:
                held[place] = new
        return value


def entries_of(value: Any) -> list[tuple[Any, Any, Any]]:
    """What a container or an object holds: where, under which key, and what."""
    if isinstance(value, list):
        return [(value, place, part) for place, part in enumerate(value)]
    held = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return [(held, place, part) for place, part in held.items()]
