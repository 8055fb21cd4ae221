"""What a model's functions can keep outside their state: on modules and classes, in arguments, closures and files."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causalrn.model.own.copying import modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.reaching import names_in
from causalrn.model.own.tensor_bytes import tensor_bytes

_DEPTH = 3
_CODE = (
    types.FunctionType,
    types.ModuleType,
    types.MethodType,
    type,
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
)


def outside_values(forms: RecurrentForms) -> dict[str, str]:
    """By name, what each of these values is, so that a change shows.

    Names are paths from the model ("blocks.0.cache"), of a class ("Block.cache"), an argument's with its function
    ("step.cache", its default), and names of a file or of an enclosing function ("CACHE").
    """
    found: dict[str, str] = {}
    classes: dict[type, None] = {}
    for module in modules_of(forms):
        for path, part in module.named_modules():
            prefix = f"{path}." if path else ""
            own = {name: value for name, value in vars(part).items() if name not in _INTERNAL}
            own |= dict(part.named_buffers(recurse=False))
            found |= {prefix + name: _digest(value, _DEPTH) for name, value in own.items()}
            found |= {prefix + name: _version(value) for name, value in part.named_parameters(recurse=False)}
            classes |= dict.fromkeys(_own_classes(type(part)))
    seen: set[int] = set()
    for made in classes:
        for name, value in vars(made).items():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if isinstance(function, types.FunctionType):
                found |= _of_function(function, seen)
            elif not name.startswith("__") and not isinstance(value, _CODE):
                found[f"{made.__name__}.{name}"] = _digest(value, _DEPTH)
    for function in _functions(forms.parallel, forms.step, forms.initial_state, forms.prefill):
        found |= _of_function(function, seen)
    return found


_INTERNAL = frozenset(vars(nn.Module())) | {"training"}


def _own_classes(made: type) -> Iterator[type]:
    """The classes that somebody wrote for the model, not PyTorch's."""
    for parent in made.__mro__:
        if parent is not object and parent.__module__.partition(".")[0] != "torch":
            yield parent


def _functions(*values: Any) -> Iterator[types.FunctionType]:
    """Plain functions behind methods and partials."""
    for value in values:
        if isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, types.MethodType):
            yield from _functions(value.__func__)
        elif isinstance(value, functools.partial):
            yield from _functions(value.func, *value.args, *value.keywords.values())


def _of_function(function: types.FunctionType, seen: set[int]) -> dict[str, str]:
    """Defaults of its arguments, what it closes over, and names of its file; the same of functions that it uses."""
    if id(function) in seen or function.__module__.partition(".")[0] == "torch":
        return {}
    seen.add(id(function))
    code, found = function.__code__, {}
    arguments = code.co_varnames[: code.co_argcount]
    defaults = dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False))
    for name, value in {**defaults, **(function.__kwdefaults__ or {})}.items():
        found[f"{function.__name__}.{name}"] = _digest(value, _DEPTH)
    used = {name: function.__globals__[name] for name in names_in(code) if name in function.__globals__}
    used |= dict(_closed_over(function))
    for name, value in used.items():
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            for inner in _functions(value):
                if inner.__module__ == function.__module__:
                    found |= _of_function(inner, seen)
        elif not isinstance(value, _CODE):
            found[name] = _digest(value, _DEPTH)
    return found


def _closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is not filled yet
            continue


def _version(parameter: Tensor) -> str:
    """Which parameter it is, and how often it was changed in place."""
    return f"{id(parameter)} {'' if parameter.is_inference() else parameter._version}"


def _digest(value: Any, depth: int) -> str:
    """What a value is, so that a change shows; "-" for code and modules."""
    if isinstance(value, Tensor):
        return hashlib.sha256(tensor_bytes(value)).hexdigest()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, nn.Module) or value is None or callable(value):
        return "-"
    if isinstance(value, int | float | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if depth and isinstance(value, Mapping):
        return str({str(key): _digest(entry, depth - 1) for key, entry in value.items()})
    if depth and isinstance(value, Sequence):
        return str([_digest(entry, depth - 1) for entry in value])
    if depth and isinstance(value, Set):
        return str(sorted(_digest(entry, depth - 1) for entry in value))
    if depth and hasattr(value, "__dict__"):
        return _digest(vars(value), depth - 1)
    return type(value).__name__
