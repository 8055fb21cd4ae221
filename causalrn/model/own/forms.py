"""A recurrent model as the functions that somebody hands over: its parallel form, its step, and what goes with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from causalrn.errors import InputError

MASKS = ("attention_mask", "mask")
"""Names of the argument that tells which tokens are there, int64 [B, T]: 1, or 0 for padding on the left."""


@dataclass(frozen=True)
class RecurrentForms:
    """A recurrent model: how it computes a whole sequence, and how a token.

    Attributes:
        parallel: int64 [B, T] -> logits [B, T, V]; it may take an `attention_mask`, int64 [B, T].
        step: (tokens int64 [B], state) -> (logits [B, V], state), or with a third argument, `position`: tokens seen so
            far, an int64 scalar. A state is any pytree (dict, list, tuple, named tuple) of tensors.
        initial_state: B -> the state before the first token.
        prefill: (tokens int64 [B, T], state[, position]) -> (logits [B, T, V], state); None takes T steps.
        vocabulary: V, number of token ids.
        capacity: most positions; None without a bound.
        blocks: the modules that the model consists of, in order, each reading a value [B, T, E] and giving one: their
            outputs tell where two forms part. None looks at all modules that both forms call.
        name: for people; "" takes the class of the module behind `parallel`.
        default_dtype: of the tensors that the functions make without naming one; None leaves PyTorch's. PyTorch has
            one for the whole process: while the functions run, other threads see it changed.

    Raises:
        InputError: something that cannot be called, a `vocabulary` or `capacity` below 2, or `blocks` that are no
            modules.

    Example:
        >>> from torch import nn
        >>> head = nn.Embedding(4, 4)
        >>> forms = RecurrentForms(head, lambda tokens, state: (head(tokens), state), lambda batch: [], 4)
        >>> forms.title, forms.takes_position
        ('Embedding', False)
    """

    parallel: Callable[..., Any]
    step: Callable[..., Any]
    initial_state: Callable[[int], Any]
    vocabulary: int
    prefill: Callable[..., Any] | None = None
    capacity: int | None = None
    blocks: Sequence[nn.Module] | None = None
    name: str = ""
    default_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for field in ("parallel", "step", "initial_state", "prefill"):
            function = getattr(self, field)
            if not callable(function) and not (field == "prefill" and function is None):
                raise InputError(f"`{field}` is {function!r}: it must be a function or a module")
        for field, least in (("vocabulary", 2), ("capacity", 2)):
            value = getattr(self, field)
            if not (field == "capacity" and value is None) and not _is_whole(value, least):
                raise InputError(f"`{field}` is {value!r}: it must be a whole number from {least} on")
        for block in self.blocks or ():
            if not isinstance(block, nn.Module):
                raise InputError(f"`blocks` holds {block!r}: it must be modules")

    @property
    def title(self) -> str:
        """What people call it."""
        owner = getattr(self.parallel, "__self__", self.parallel)
        return self.name or (type(owner).__name__ if isinstance(owner, nn.Module) else "model")

    @cached_property
    def takes_position(self) -> bool:
        """Whether the step is told how many tokens came before."""
        return takes(self.step, "position")

    @cached_property
    def may_omit_position(self) -> bool:
        """Whether it may also be left to find out by itself."""
        parameter = _parameters(self.step).get("position")
        return parameter is not None and parameter.default is not inspect.Parameter.empty

    def initial(self, batch: int) -> Any:
        """The state before the first token.

        Raises:
            InputError: `initial_state` raised something.
        """
        return self._call("initial_state", batch)

    def step_once(self, tokens: Tensor, state: Any, position: Tensor | None) -> tuple[Tensor, Any]:
        """One token per row, int64 [B]: logits [B, V] and the next state; a position of None is left out."""
        given = {"position": position} if self.takes_position and position is not None else {}
        shape = (tokens.shape[0], self.vocabulary)
        return _checked("step", self._call("step", tokens, state, **given), shape)

    def prefill_once(
        self, tokens: Tensor, state: Any, position: Tensor | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """T tokens per row, int64 [B, T], onto any state: logits [B, T, V] and the next state."""
        assert self.prefill is not None
        given: dict[str, Any] = {}
        if position is not None and takes(self.prefill, "position"):
            given["position"] = position
        if mask is not None:
            given[mask_name(self.prefill) or MASKS[0]] = mask
        found = self._call("prefill", tokens, state, **given)
        return _checked("prefill", found, (*tokens.shape, self.vocabulary))

    def whole(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The parallel form: int64 [B, T] -> logits [B, T, V]."""
        given = {} if mask is None else {mask_name(self.parallel) or MASKS[0]: mask}
        logits = self._call("parallel", tokens, **given)
        return _checked_logits("parallel", logits, (*tokens.shape, self.vocabulary))

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Call what somebody handed over; what it raises is told with its name."""
        before = torch.get_default_dtype()
        try:
            if self.default_dtype is not None:
                torch.set_default_dtype(self.default_dtype)
            return getattr(self, name)(*arguments, **named)
        except InputError:
            raise
        except Exception as error:  # whatever a model raises
            words = " ".join(str(error).split()) or "no message"
            if isinstance(error, IndexError):
                words += f" (token ids go up to {self.vocabulary - 1}: are `vocabulary` and `capacity` right?)"
            raise InputError(f"`{name}` raised {type(error).__name__}{self._circumstances()}: {words}") from error
        finally:
            if self.default_dtype is not None:
                torch.set_default_dtype(before)

    def _circumstances(self) -> str:
        """What is different here from how somebody runs the model."""
        if self.default_dtype != torch.float64:
            return ""
        return " in a float64 copy of the model (keep what it computes with in its parameters, buffers and state)"


def scanning(step: Callable[..., Any], initial_state: Callable[[int], Any]) -> Callable[[Tensor], Tensor]:
    """A parallel form out of a step, int64 [B, T] -> [B, T, V]: for models that have no other."""
    tells = takes(step, "position")

    def scan(tokens: Tensor) -> Tensor:
        state, rows = initial_state(len(tokens)), []
        for position in range(tokens.shape[1]):
            given = {"position": torch.tensor(position)} if tells else {}
            logits, state = step(tokens[:, position], state, **given)
            rows.append(logits)
        return torch.stack(rows, dim=1)

    return scan


def forms_from(given: Any, arguments: Mapping[str, Any]) -> RecurrentForms:
    """Forms from an object that has them, from arguments by name, or both.

    Args:
        given: None, forms, a mapping of their fields, or a model with `step`, `initial_state` (or `init_state`) and
            `vocabulary`, that is called itself for the parallel form.
        arguments: fields of :class:`RecurrentForms`; None is not given.

    Raises:
        InputError: something is missing, or unknown.
    """
    names = [field.name for field in fields(RecurrentForms) if field.name != "default_dtype"]
    found: dict[str, Any] = {}
    if isinstance(given, Mapping):
        unknown = sorted(set(map(str, given)) - set(names))
        if unknown:
            raise InputError(f"the model's {unknown[0]!r} is unknown: it may have {', '.join(names)}")
        found = dict(given)
    elif isinstance(given, RecurrentForms):
        found = {name: getattr(given, name) for name in names}
    elif given is not None:
        found = _of_object(given, names)
    found |= {name: value for name, value in arguments.items() if value is not None}
    missing = [name for name in ("parallel", "step", "initial_state", "vocabulary") if found.get(name) is None]
    if missing:
        words = _REMEDIES.get(missing[0], "the model has none, and none is given")
        raise InputError(f"`{missing[0]}` is missing: {words}")
    for name in ("vocabulary", "capacity"):
        if isinstance(found.get(name), Integral) and not isinstance(found[name], bool):
            found[name] = int(found[name])
    return RecurrentForms(**found)


_REMEDIES = {
    "parallel": "give a model, or functions: parallel, step, initial_state",
    "step": "the model must have a method step(tokens, state) -> (logits, state)",
    "initial_state": "the model must have a method initial_state(batch) -> state",
    "vocabulary": "say how many token ids there are, or let the model have it as an attribute",
}


def _of_object(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """The functions of a model under their usual names; a module's own `name` is none of them."""
    if not callable(model):
        raise InputError(f"{_kind(model)} is no recurrent model: give a module with step and initial_state, or forms")
    if isinstance(model, type):
        raise InputError(f"{model.__name__} is a class: give a model, {model.__name__}(...)")
    if hasattr(model, "_orig_mod"):
        raise InputError("the model is compiled: give the module that went into torch.compile")
    found = {name: getattr(model, name, None) for name in names if name not in ("parallel", "name", "blocks")}
    found["initial_state"] = found["initial_state"] or getattr(model, "init_state", None)
    blocks = getattr(model, "blocks", None)
    is_list = isinstance(blocks, nn.ModuleList | list | tuple) and all(isinstance(part, nn.Module) for part in blocks)
    return found | {"parallel": model, "blocks": list(blocks) if is_list and blocks else None}


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of that name."""
    return argument in _parameters(function)


def mask_name(function: Callable[..., Any] | None) -> str | None:
    """The argument for an attention mask; None where there is none."""
    return None if function is None else next((name for name in MASKS if takes(function, name)), None)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked(name: str, found: Any, shape: tuple[int, ...]) -> tuple[Tensor, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InputError(f"`{name}` gave {_kind(found)}: it must give a pair, (logits, state)")
    logits, state = found
    return _checked_logits(name, logits, shape), state


def _checked_logits(name: str, logits: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise InputError(f"`{name}` gave {_kind(logits)} for logits: it must be a tensor of floating-point numbers")
    if not torch.compiler.is_exporting() and tuple(logits.shape) != shape:
        axes = "[B, V]" if len(shape) == 2 else "[B, T, V]"
        raise InputError(f"`{name}` gave logits of shape {list(logits.shape)}, expected {axes} = {list(shape)}")
    return logits


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
