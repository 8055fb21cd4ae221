"""A model behind functions, copied: modules, methods and functions that close over modules, all together."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms

_FUNCTIONS = ("parallel", "step", "initial_state", "prefill")


def modules_of(forms: RecurrentForms) -> list[nn.Module]:
    """The outermost modules behind the functions, each once.

    Raises:
        InputError: there is none.
    """
    outermost = _outermost(forms)
    if not outermost:
        raise InputError("no module was found behind `parallel` and `step`: give a torch.nn.Module, or its methods")
    return outermost


def _outermost(forms: RecurrentForms) -> list[nn.Module]:
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    for name in _FUNCTIONS:
        for module in _modules(getattr(forms, name), seen):
            found[id(module)] = module
    inner = {id(child) for module in found.values() for child in module.modules() if child is not module}
    return [module for key, module in found.items() if key not in inner]


def copied(forms: RecurrentForms, dtype: torch.dtype | None = None) -> RecurrentForms:
    """The same functions of copies of the modules behind them, in another dtype.

    What functions close over is copied, too, and so are module-level names that they use. Floating-point parameters,
    buffers and tensors become `dtype`; None leaves them.

    Raises:
        InputError: something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in _computed(forms):
        memo[id(tensor)] = tensor.detach().clone()  # copy.deepcopy refuses what has a history of gradients
    try:
        made = {name: _rebuilt(getattr(forms, name), memo) for name in _FUNCTIONS}
        blocks = None if forms.blocks is None else [_rebuilt(block, memo) for block in forms.blocks]
    except (TypeError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"the model cannot be copied ({words}): give modules that copy.deepcopy can copy") from error
    result = dataclasses.replace(forms, **made, blocks=blocks, name=forms.title)
    _rebuild_inside(result, memo)
    if dtype is None:
        return result
    _convert(modules_of(result), memo, dtype)
    return dataclasses.replace(result, default_dtype=dtype)


def _rebuild_inside(forms: RecurrentForms, memo: dict[int, Any]) -> None:
    """Functions that modules have as attributes or hooks, made anew: a copied module would call into the original."""
    for module in _outermost(forms):
        for part in module.modules():
            own = vars(part)
            for held in (own, *(value for name, value in own.items() if name.endswith("_hooks") and value)):
                for name, value in list(held.items()):
                    if isinstance(value, types.FunctionType):
                        held[name] = _rebuilt(value, memo)


def _convert(modules: list[nn.Module], memo: dict[int, Any], dtype: torch.dtype) -> None:
    """Parameters, buffers, and tensors that functions hold or modules have as plain attributes."""
    for module in modules:
        module.to(dtype)
        for part in module.modules():
            for name, value in list(vars(part).items()):
                if name not in _REGISTERED:
                    vars(part)[name] = _converted(value, dtype)
    for value in list(memo.values()):
        if isinstance(value, types.CellType) and _filled(value):
            value.cell_contents = _converted(value.cell_contents, dtype)
        elif isinstance(value, types.FunctionType):
            value.__defaults__ = _converted(value.__defaults__, dtype)


_REGISTERED = frozenset(vars(nn.Module()))


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in another dtype, and containers of them; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and not isinstance(value, nn.Parameter) else value
    if isinstance(value, dict | list | tuple):
        leaves, structure = pytree.tree_flatten(value)
        if any(isinstance(leaf, Tensor) for leaf in leaves):
            return pytree.tree_unflatten([_converted(leaf, dtype) for leaf in leaves], structure)
    return value


def _modules(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    """The modules that a function reaches."""
    return (part for part in _reached(value, seen) if isinstance(part, nn.Module))


def _computed(forms: RecurrentForms) -> Iterator[Tensor]:
    """Tensors with a history of gradients that functions and modules hold, e.g. what a forward pass has kept."""
    seen: set[int] = set()
    open_values: list[Any] = [getattr(forms, name) for name in _FUNCTIONS]
    while open_values:
        for part in _reached(open_values.pop(), seen):
            if isinstance(part, nn.Module):
                open_values += vars(part).values()
            elif not part.is_leaf:
                yield part


def _reached(value: Any, seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """The modules and tensors that a value holds; not what is in the modules."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | Tensor):
        yield value
    elif isinstance(value, types.MethodType):
        yield from _reached(value.__self__, seen)
        yield from _reached(value.__func__, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _reached(part, seen)
    elif isinstance(value, types.FunctionType):
        for part in _held(value).values():
            yield from _reached(part, seen)
    elif isinstance(value, dict):
        for part in list(value.values()):
            yield from _reached(part, seen)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _reached(part, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
        for part in list(vars(value).values()):
            yield from _reached(part, seen)


def _held(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over, has as defaults, and uses of its module: modules, and functions that reach some."""
    closed = {f"closure {i}": cell.cell_contents for i, cell in enumerate(function.__closure__ or ()) if _filled(cell)}
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    return {**closed, **{f"default {name}": value for name, value in defaults.items()}, **_globals_of(function)}


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """Module-level names that a function uses and that stand for a model, or for a function beside it."""
    found = {}
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if isinstance(value, nn.Module | types.MethodType | functools.partial) or own:
            found[name] = value
    return found


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _rebuilt(value: Any, memo: dict[int, Any]) -> Any:
    """A copy; functions are made anew over copies of what they hold."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.MethodType):
        function = _rebuilt(value.__func__, memo)
        return types.MethodType(function, _rebuilt(value.__self__, memo))
    if isinstance(value, functools.partial):
        named = {name: _rebuilt(part, memo) for name, part in value.keywords.items()}
        return functools.partial(_rebuilt(value.func, memo), *[_rebuilt(part, memo) for part in value.args], **named)
    if isinstance(value, types.FunctionType):
        return _rebuilt_function(value, memo)
    return copy.deepcopy(value, memo)


def _rebuilt_function(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    if next(_modules(function, set()), None) is None and not function.__closure__:
        return function
    used = _globals_of(function)
    names = dict(function.__globals__) if used else function.__globals__
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)
    memo[id(function)] = made  # before what it holds: that may hold it
    memo[id(made)] = made
    made.__kwdefaults__, made.__module__ = function.__kwdefaults__, function.__module__
    if function.__defaults__:
        made.__defaults__ = tuple(_rebuilt(part, memo) for part in function.__defaults__)
    for old, new in zip(function.__closure__ or (), cells, strict=True):
        memo[id(new)] = new
        if _filled(old):
            new.cell_contents = _rebuilt(old.cell_contents, memo)
    names |= {name: _rebuilt(value, memo) for name, value in used.items()}
    return made
