"""Whether the blocks of a model can be compared between its forms: both call each once, in order, with [B, T, E]."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms

_BATCH, _STEPS = 3, 2


def with_usable_blocks(forms: RecurrentForms, *, are_named: bool) -> tuple[RecurrentForms, str]:
    """The same without blocks that cannot be compared, and why; blocks that somebody named are refused then.

    Args:
        forms: whose blocks they are.
        are_named: whether somebody named them; else they may be the model's own list, which nobody may have meant.

    Raises:
        InputError: blocks that were named cannot be compared, or a function raises something.
    """
    if not forms.blocks:
        return forms, ""
    why = _why_not(forms, list(forms.blocks))
    if not why:
        return forms, ""
    owner = getattr(forms.parallel, "__self__", forms.parallel)
    if are_named or list(forms.blocks) != list(getattr(owner, "blocks", None) or ()):
        raise InputError(f"`blocks` cannot be compared: {why}")
    return replace(forms, blocks=None), f"the model's `blocks` cannot be compared ({why}), and none are named"


@dataclass(frozen=True)
class _Call:
    """One call of a block: which one, the first tensor that it read, and what it gave."""

    block: int
    read: Tensor | None
    gave: Any


def _why_not(forms: RecurrentForms, blocks: Sequence[nn.Module]) -> str:
    """What keeps blocks from being compared; "" where nothing does."""
    if len(set(map(id, blocks))) < len(blocks):
        return "one of them stands there twice"
    tokens = torch.arange(_BATCH * _STEPS).reshape(_BATCH, _STEPS) % forms.vocabulary
    with torch.inference_mode():
        with _called(blocks) as whole:
            forms.whole(tokens)
        with _called(blocks) as once:
            forms.step_once(tokens[:, 0], forms.initial(_BATCH), torch.tensor(0))
    return _fault("parallel", whole, blocks, [(_BATCH, _STEPS)]) or _fault(
        "step", once, blocks, [(_BATCH,), (_BATCH, 1)]
    )


def _fault(form: str, calls: Sequence[_Call], blocks: Sequence[nn.Module], starts: Sequence[tuple[int, ...]]) -> str:
    """What is wrong with a form's calls: each block once, values that begin with one of these shapes and end with E."""
    order = [call.block for call in calls]
    for place, block in enumerate(blocks):
        if order.count(place) != 1:
            times = f"{order.count(place)} times" if place in order else "never, at least not as a module"
            return f"{form} calls the {type(block).__name__} at {place} {times}"
    if order != sorted(order):
        return f"{form} calls them in another order"
    gave = calls[-1].gave[0] if isinstance(calls[-1].gave, tuple) and calls[-1].gave else calls[-1].gave
    for words, value in [*(("reads", call.read) for call in calls), ("gives", gave)]:
        if not isinstance(value, Tensor):
            return f"in {form} one of them {words} {'no tensor' if value is None else f'a {type(value).__name__}'}"
        if not value.is_floating_point() or tuple(value.shape[:-1]) not in starts:
            return f"in {form} one of them {words} {list(value.shape)}, not [B, T, E]"
    return ""


@contextlib.contextmanager
def _called(blocks: Sequence[nn.Module]) -> Iterator[list[_Call]]:
    """A context that records the calls of blocks, in the order in which they begin."""
    calls: list[_Call] = []
    places = {id(block): place for place, block in enumerate(blocks)}

    def before(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        read = next((value for value in (*given, *named.values()) if isinstance(value, Tensor)), None)
        calls.append(_Call(places[id(block)], read, None))

    def after(block: nn.Module, _: Any, output: Any) -> None:
        place = max(place for place, call in enumerate(calls) if call.block == places[id(block)])
        calls[place] = replace(calls[place], gave=output)

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(after) for block in blocks]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
