"""What modules are given and give, recorded; and how the values of two runs are paired."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Calls = dict[str, list[tuple[Tensor | None, Tensor]]]
"""By path of a module, for each call the first tensor that it was given, and the first that it gave."""

Pairs = Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor]]]
"""Ways in which a value of one run and a value of another can be the same thing: pairs of equal shapes."""


@contextlib.contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[Calls]:
    """A context in which all modules are recorded, in the order in which they first end."""
    found: Calls = {}
    paths = {part: path for module in modules for path, part in module.named_modules() if path}

    def after(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and first.is_floating_point():
            tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
            read = tensors[0].detach().clone() if tensors else None
            found.setdefault(paths[part], []).append((read, first.detach().clone()))

    hooks = [part.register_forward_hook(after, with_kwargs=True) for part in paths]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def at_position(step: int, steps: int, batch: int) -> Pairs:
    """Of a run over `steps` tokens, what belongs to one of them, beside a run over that token alone.

    Either may lack the axis of the batch, as positions do that all rows share.
    """

    def pairs(whole: Tensor, one: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for axis in range(whole.ndim):
            if whole.shape[axis] != steps:
                continue
            part, other = whole.select(axis, step), one
            if part.numel() * batch == other.numel():
                part = part.flatten().repeat(batch)
            elif part.numel() == other.numel() * batch:
                other = other.flatten().repeat(batch)
            if part.numel() == other.numel():
                found.append((part.flatten(), other.flatten()))
        return found

    return pairs


def cut(length: int, steps: int) -> Pairs:
    """Of a run over `steps` tokens the first ones, beside a run over those alone."""

    def pairs(whole: Tensor, part: Tensor) -> list[tuple[Tensor, Tensor]]:
        axes = [axis for axis in range(whole.ndim) if whole.shape[axis] == steps and part.ndim == whole.ndim]
        shortened = [whole.narrow(axis, 0, length) for axis in axes]
        return [(short, part) for short in shortened if short.shape == part.shape]

    return pairs


def aligned(one: Tensor, two: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Values of equal shape."""
    return [(one, two)] if one.shape == two.shape else []


def differ(one: Sequence[tuple[Tensor | None, Tensor]], two: Sequence[tuple[Tensor | None, Tensor]]) -> bool:
    """Whether the outputs of a module are not bit for bit the same in two runs."""
    return len(one) != len(two) or any(not torch.equal(a, b) for (_, a), (_, b) in zip(one, two, strict=True))


def not_finite(one: Tensor, _: Tensor) -> bool:
    """Whether there is NaN or infinity in a value."""
    return not bool(torch.isfinite(one).all())
