"""A model behind functions, copied: modules, methods and functions that close over modules, all together."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.reaching import filled, modules_in, reached
from causalrn.model.own.rebuilding import Rebuilder, entries_of

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
        for module in modules_in(getattr(forms, name), seen):
            found[id(module)] = module
    inner = {id(child) for module in found.values() for child in module.modules() if child is not module}
    return [module for key, module in found.items() if key not in inner]


def copied(forms: RecurrentForms, dtype: torch.dtype | None = None) -> RecurrentForms:
    """The same functions of copies of the modules behind them, in another dtype.

    What functions close over is copied, too, and so are names of their file that they use. Floating-point parameters,
    buffers and tensors become `dtype`, complex ones the complex dtype of its width; None leaves them. What the
    functions make without naming a dtype follows by :attr:`RecurrentForms.default_dtype`.

    Raises:
        InputError: something that cannot be copied, or a module that is still the original in the copy.
    """
    rebuilder = Rebuilder()
    for tensor in _computed(forms):
        rebuilder.memo[id(tensor)] = tensor.detach().clone()  # copy.deepcopy refuses what has a history of gradients
    try:
        made = {name: rebuilder.rebuild(getattr(forms, name)) for name in _FUNCTIONS}
        blocks = None if forms.blocks is None else [rebuilder.rebuild(block) for block in forms.blocks]
    except InputError:
        raise
    except Exception as error:  # whatever a model's own __deepcopy__ raises
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the model cannot be copied ({words}): give modules that copy.deepcopy can copy") from error
    result = dataclasses.replace(forms, **made, blocks=blocks, name=forms.title)
    _check_apart(forms, result)
    if dtype is None:
        return result
    _Conversion(rebuilder, dtype).run(result)
    return dataclasses.replace(result, default_dtype=dtype)


def _check_apart(forms: RecurrentForms, result: RecurrentForms) -> None:
    """Refuse a copy that shares modules with the original: a change of dtype would reach those.

    Raises:
        InputError: there is one.
    """
    originals = {id(part) for module in _outermost(forms) for part in module.modules()}
    for module in (part for outer in _outermost(result) for part in outer.modules()):
        if id(module) in originals:
            raise InputError(
                f"the model cannot be copied: {type(module).__name__} is the same module in the copy, by its own "
                "__deepcopy__ or where no copy reaches; let functions close over it, or give its methods"
            )


class _Conversion:
    """Parameters, buffers, and tensors that functions hold or modules have as plain attributes, in another dtype.

    Args:
        rebuilder: that made the copies: nothing else is changed.
        dtype: of floating-point numbers.
    """

    def __init__(self, rebuilder: Rebuilder, dtype: torch.dtype) -> None:
        self._memo, self._copies = rebuilder.memo, rebuilder.copies
        self._dtype, self._complex = dtype, dtype.to_complex()
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: set[int] = set()

    def run(self, forms: RecurrentForms) -> None:
        """Convert all that functions and modules hold."""
        for module in modules_of(forms):
            module._apply(self._tensor)  # type: ignore[no-untyped-call]  # as nn.Module.to, which makes real numbers of complex ones
        for value in list(self._memo.values()):
            if isinstance(value, types.CellType) and filled(value):
                value.cell_contents = self._value(value.cell_contents)
            elif isinstance(value, types.FunctionType) and id(value) in self._copies:
                value.__defaults__ = self._value(value.__defaults__)
                for held in (value.__kwdefaults__ or {}, vars(value)):
                    held |= {name: self._value(part) for name, part in held.items()}
            else:
                self._value(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        """The same tensor once and again, wherever it is held."""
        if id(tensor) not in self._made:
            wide = self._dtype if tensor.is_floating_point() else self._complex if tensor.is_complex() else tensor.dtype
            self._made[id(tensor)] = tensor, tensor.to(wide)
        return self._made[id(tensor)][1]

    def _value(self, value: Any) -> Any:
        """Tensors in another dtype, and containers of them; all else as it is, changed inside where it is a copy."""
        if isinstance(value, Tensor):
            return value if isinstance(value, nn.Parameter) else self._tensor(value)
        if isinstance(value, tuple):
            parts = [self._value(part) for part in value]
            if all(new is old for new, old in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if id(value) not in self._copies or id(value) in self._seen or isinstance(value, types.FunctionType):
            return value
        self._seen.add(id(value))
        registered = () if not isinstance(value, nn.Module) else ("_parameters", "_buffers")
        for held, place, part in entries_of(value):
            new = part if place in registered else self._value(part)
            if new is not part:
                held[place] = new
        return value


def _computed(forms: RecurrentForms) -> Iterator[Tensor]:
    """Tensors with a history of gradients that functions and modules hold, e.g. what a forward pass has kept."""
    seen: set[int] = set()
    open_values: list[Any] = [getattr(forms, name) for name in _FUNCTIONS]
    while open_values:
        for part in reached(open_values.pop(), seen):
            if isinstance(part, nn.Module):
                open_values += vars(part).values()
            elif not part.is_leaf:
                yield part
