"""A state that is any pytree of tensors: names for its tensors, and the way between the tree and the list of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from causalrn.errors import InputError

_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class StateTree:
    """How a state is built.

    Attributes:
        names: of its tensors, in the tree's order: a block number and a path, "01.conv".
        structure: of the tree.
        constants: by place in the tree, what is no tensor: numbers and None that never change.
    """

    names: tuple[str, ...]
    structure: pytree.TreeSpec
    constants: dict[int, Any]

    @classmethod
    def of(cls, state: Any) -> StateTree:
        """The structure of a state.

        Raises:
            InputError: it holds objects that are neither tensors nor containers of them, or no tensor at all.
        """
        try:
            leaves, structure = pytree.tree_flatten_with_path(state)
        except RecursionError:
            raise InputError("the state holds itself: make it of dicts, lists and tuples of tensors") from None
        for path, leaf in leaves:
            if not isinstance(leaf, Tensor | int | float | str | None):
                where = f" at {pytree.keystr(path)}" if path else ""
                raise InputError(
                    f"the state holds {type(leaf).__name__}{where}, which is no tensor: make the state of dicts, lists "
                    "and tuples of tensors"
                )
        tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            raise InputError("the state holds no tensor: `initial_state` must give what `step` carries on")
        for path, tensor in tensors:
            _check_kind(tensor, pytree.keystr(path))
        constants = {place: leaf for place, (_, leaf) in enumerate(leaves) if not isinstance(leaf, Tensor)}
        return cls(_names([path for path, _ in tensors]), structure, constants)

    def flatten(self, state: Any, source: str = "step") -> list[Tensor]:
        """The tensors of a state, in order: dicts are matched by their keys, and lists and tuples are alike.

        Raises:
            InputError: the state is built otherwise, or a number in it has changed.
        """
        places = pytree.tree_unflatten(list(range(self._size)), self.structure)
        try:
            leaves = list(_matched(places, state, ""))
        except _OtherwiseError as difference:
            words = f"`{source}` gave a state that is built otherwise than `initial_state`'s: {difference}"
            raise InputError(words) from difference
        tensors = []
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                tensors.append(leaf)
            elif place not in self.constants or leaf != self.constants[place]:
                raise InputError(
                    f"`{source}` changed {self.constants.get(place)!r} in the state to {leaf!r}, which is no tensor: "
                    "make it one, so that it can be carried"
                )
        if len(tensors) != len(self.names):
            raise InputError(f"`{source}` gave {len(tensors)} tensors in its state, {len(self.names)} before")
        return tensors

    def unflatten(self, tensors: Sequence[Tensor]) -> Any:
        """The state of these tensors."""
        given = iter(tensors)
        leaves = [self.constants[place] if place in self.constants else next(given) for place in range(self._size)]
        return pytree.tree_unflatten(leaves, self.structure)

    @property
    def _size(self) -> int:
        return len(self.names) + len(self.constants)


class _OtherwiseError(Exception):
    """Two states are built otherwise, in words."""


def _matched(places: Any, state: Any, where: str) -> Iterator[Any]:
    """The leaves of a state in the order of a tree of the same structure, whose leaves are whole numbers."""
    at = f" at {where}" if where else ""
    if isinstance(places, int):
        if isinstance(state, Mapping | list | tuple):
            raise _OtherwiseError(f"a {type(state).__name__} of {len(state)}{at}, one entry before")
        yield state
    elif isinstance(places, Mapping):
        if not isinstance(state, Mapping) or state.keys() != places.keys():
            found = f"the keys {_listed(state)}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise _OtherwiseError(f"{found}{at}, the keys {_listed(places)} before")
        for key, part in places.items():
            yield from _matched(part, state[key], f"{where}[{key!r}]")
    elif isinstance(places, list | tuple):
        if not isinstance(state, list | tuple) or len(state) != len(places):
            found = f"{len(state)} entries" if isinstance(state, list | tuple) else f"a {type(state).__name__}"
            raise _OtherwiseError(f"{found}{at}, {len(places)} before")
        for index, part in enumerate(places):
            yield from _matched(part, state[index], f"{where}[{index}]")
    else:  # a container that somebody registered
        leaves, structure = pytree.tree_flatten(state)
        if structure != pytree.tree_structure(places):
            raise _OtherwiseError(f"a {type(state).__name__} of {len(leaves)} entries{at}, another one before")
        yield from leaves


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(map(repr, keys)) or "none"


def _check_kind(tensor: Tensor, where: str) -> None:
    """Refuse tensors that cannot be carried from step to step as arrays."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise InputError(f"the state's tensor at {where} is sparse, quantized or without data: make it a plain tensor")
    if dtype not in _DTYPES:
        raise InputError(f"the state's tensor at {where} is {dtype}: make it one of {', '.join(_DTYPES)}")


def _names(paths: Sequence[Any]) -> tuple[str, ...]:
    """A name for each path, different from the others: the first number in it is the block's."""
    names: list[str] = []
    digits = max(2, len(str(len(paths))))
    for path in paths:
        parts = [re.sub(r"\W+", "_", str(_key(entry)) or "_", flags=re.ASCII) for entry in path]
        block = next((part for part in parts if part.isdigit()), None)
        if block is not None:
            parts.remove(block)
        rest = ".".join(part for part in parts if part not in ("layers", "blocks")) or "state"
        name = f"{int(block or 0):0{digits}d}.{rest}"
        free = (f"{name}_{count}" for count in itertools.count(len(names)))
        names.append(name if name not in names else next(other for other in free if other not in names))
    return tuple(names)


def _key(entry: Any) -> Any:
    """What an entry of a path is called: index, key or attribute."""
    return next((getattr(entry, field) for field in ("idx", "key", "name") if hasattr(entry, field)), entry)


def clone(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies that nothing else changes."""
    return [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
