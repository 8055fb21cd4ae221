"""What state a model carries, found by running it: with two batch sizes, over a few steps, and with other tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from causalrn.bundle.state_spec import STATE, Dim, StateSpec, StateTensor
from causalrn.errors import InputError
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.outside_values import outside_values
from causalrn.model.own.state_tree import StateTree, clone

FaultKind = Literal["in place", "on the module", "dtype", "shape", "batch"]
_BATCHES, _STEPS = (2, 3), 5
_NO_BATCH = -1


@dataclass(frozen=True)
class StateFault:
    """What a state must not do.

    Attributes:
        kind: "in place" (step or prefill change what they are given), "on the module" (they keep something outside
            the state: there, on a class, in a default argument or in their file), "dtype", "shape" (they change
            otherwise than by a row per token), or "batch" (no axis, or several).
        tensor: of the state, or what is kept outside of it.
        words: for people.
    """

    kind: FaultKind
    tensor: str
    words: str


@dataclass(frozen=True)
class FirstRun:
    """A first run: tokens int64 [B, T], the steps' logits [B, T, V], and the prefill's where there is one."""

    tokens: Tensor
    stepped: Tensor
    prefilled: Tensor | None


@dataclass(frozen=True)
class StateProbe:
    """What was found.

    Attributes:
        tree: how the state is built.
        spec: the state contract.
        first_rows: by tensor that grows, how many rows a fresh state has.
        faults: what is wrong with it.
        idle: integer tensors that never changed, e.g. a counter that nobody advances.
        first_runs: what the model gave when it first ran, from fresh states: later it should give the same.
    """

    tree: StateTree
    spec: StateSpec
    first_rows: Mapping[str, int]
    faults: tuple[StateFault, ...]
    idle: tuple[str, ...]
    first_runs: tuple[FirstRun, ...] = ()

    @property
    def in_place(self) -> frozenset[str]:
        """Tensors that step or prefill change in place."""
        return frozenset(fault.tensor for fault in self.faults if fault.kind == "in place")


@dataclass
class _Watched:
    """The state after 0, 1, ... steps, what came out, and by what was changed beside, which function did it."""

    states: list[list[Tensor]]
    tokens: Tensor
    logits: list[Tensor] = field(default_factory=list)
    prefilled: Tensor | None = None
    in_place: dict[int, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)

    @property
    def first_run(self) -> FirstRun:
        """What came out, as it is kept."""
        return FirstRun(self.tokens, torch.stack(self.logits, 1), self.prefilled)


def probe_state(forms: RecurrentForms) -> StateProbe:
    """Run a model for a few steps and find out which state it carries.

    Raises:
        InputError: a function raises something, or gives what cannot be a state.
    """
    with torch.no_grad():
        tree = StateTree.of(forms.initial(_BATCHES[0]))
        first = _watch(forms, tree, _BATCHES[0], seed=0, steps=1)  # what it makes once and for all is no state
        small, large = (_watch(forms, tree, batch, seed=0) for batch in _BATCHES)
        other = _watch(forms, tree, _BATCHES[0], seed=1)
    made = [_Tensor(name, place, small, large, other) for place, name in enumerate(tree.names)]
    outside = {**small.outside, **large.outside, **other.outside}
    faults = [fault for tensor in made for fault in tensor.faults()]
    faults += [
        StateFault("on the module", name, f"{source} changes {name}, which is no part of the state: carry it there")
        for name, source in sorted(outside.items())
    ]
    spec = StateSpec(
        "concat" if any(tensor.axis is not None for tensor in made) else "none",
        tuple(tensor.contract(forms.capacity) for tensor in made),
    )
    first_rows = {tensor.name: tensor.shapes[0][tensor.axis] for tensor in made if tensor.axis is not None}
    idle, runs = tuple(each.name for each in made if each.is_idle), (first.first_run, small.first_run)
    return StateProbe(tree, spec, first_rows, tuple(faults), idle, runs)


def _watch(forms: RecurrentForms, tree: StateTree, batch: int, *, seed: int, steps: int = _STEPS) -> _Watched:
    tokens = torch.randint(forms.vocabulary, (batch, steps), generator=torch.Generator().manual_seed(seed))
    given = tree.flatten(forms.initial(batch), "initial_state")
    tokens = tokens[:, : forms.capacity]
    watched = _Watched([clone(given)], tokens)
    for position in range(tokens.shape[1]):
        place = torch.tensor(position)
        run = partial(forms.step_once, tokens[:, position], position=place)
        logits, state = _watched_call("step", run, forms, tree, given, watched)
        watched.logits.append(logits.clone())
        given = clone(tree.flatten(state))
        watched.states.append(given)
    if forms.prefill is not None:
        given = tree.flatten(forms.initial(batch), "initial_state")
        run = partial(forms.prefill_once, tokens, position=torch.tensor(0))
        logits, _ = _watched_call("prefill", run, forms, tree, given, watched)
        watched.prefilled = logits.clone()
    return watched


def _watched_call(
    source: str,
    run: Callable[..., tuple[Tensor, Any]],
    forms: RecurrentForms,
    tree: StateTree,
    given: list[Tensor],
    watched: _Watched,
) -> tuple[Tensor, Any]:
    """Call a function with a state, and note which tensors of it and what else are others afterwards."""
    before, outside, state = clone(given), outside_values(forms), tree.unflatten(given)
    found = run(state=state)
    now = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]  # containers may hold others now
    if len(now) != len(given):
        raise InputError(f"`{source}` adds to the state that it is given, or removes from it: it must make a new one")
    for place, (old, held, new) in enumerate(zip(before, given, now, strict=True)):
        if not (_same(old, held) and _same(old, new)):
            watched.in_place[place] = source
    for name, value in outside_values(forms).items():
        if outside.get(name) != value:
            watched.outside[name] = source
    return found


class _Tensor:
    """One tensor of the state over all runs."""

    def __init__(self, name: str, place: int, small: _Watched, large: _Watched, other: _Watched) -> None:
        self.name = name
        self._values = [state[place] for state in small.states]
        self._changer = {**small.in_place, **large.in_place}.get(place)
        self._other_shapes = [tuple(state[place].shape) for state in other.states]
        self.shapes = [tuple(value.shape) for value in self._values]
        large_shape = tuple(large.states[-1][place].shape)
        self._batch_axes = [
            axis
            for axis, (two, three) in enumerate(zip(self.shapes[-1], large_shape, strict=False))
            if (two, three) == _BATCHES
        ]
        self.axis = self._growth_axis()
        dtype = self._values[-1].dtype
        self._dtype = str(dtype).removeprefix("torch.")

    @property
    def is_idle(self) -> bool:
        """A number that counts nothing."""
        first = self._values[0]
        whole = not first.is_floating_point() and first.dtype != torch.bool and first.numel() > 0
        return whole and all(_same(first, value) for value in self._values)

    def _growth_axis(self) -> int | None:
        """Where the tensor gains a row with every token."""
        first = self.shapes[0]
        for axis in range(len(first)):
            wanted = [(*first[:axis], first[axis] + step, *first[axis + 1 :]) for step in range(len(self.shapes))]
            if self.shapes == wanted:
                return axis
        return None

    def faults(self) -> Iterator[StateFault]:
        """What is wrong with it."""
        dtypes = {value.dtype for value in self._values}
        if len(dtypes) > 1:
            names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            yield StateFault("dtype", self.name, f"{self.name} changes its dtype: {names}")
        if self._changer is not None:
            words = f"{self._changer} changes {self.name} of the state that it is given: it must make a new tensor"
            yield StateFault("in place", self.name, words)
        if self.axis is None and len(set(self.shapes)) > 1:
            shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(self.shapes))
            yield StateFault("shape", self.name, f"{self.name} changes its shape, and not by a row per token: {shapes}")
        elif self._other_shapes != self.shapes:
            yield StateFault("shape", self.name, f"the shape of {self.name} depends on the tokens")
        if len(self._batch_axes) > 1:
            yield StateFault("batch", self.name, f"{self.name} has several axes that are as long as the batch")
        elif not self._batch_axes and self._values[-1].numel() > 1:
            shape = list(self.shapes[-1])
            yield StateFault("batch", self.name, f"{self.name} {shape} has no axis for the batch: rows share it")

    def contract(self, capacity: int | None) -> StateTensor:
        """Its entry of the state contract."""
        shape: list[Dim] = list(self.shapes[-1])
        if self._batch_axes:
            shape[self._batch_axes[0]] = "B"
        if self.axis is not None:
            shape[self.axis] = "t"
        return StateTensor(
            self.name,
            STATE,
            tuple(shape),
            "replace",
            "constant" if self.axis is None else "token",
            capacity,
            self._dtype,
            batch_axis=self._batch_axes[0] if self._batch_axes else _NO_BATCH,
            growth_axis=self.axis or 0,
        )


def _same(one: Tensor, two: Tensor) -> bool:
    """Bit for bit, NaN included."""
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(_bits(one), _bits(two))


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().flatten().view(torch.uint8) if value.numel() else value


def check_usable(probe: StateProbe) -> None:
    """Refuse to export a state that cannot go in and out of a graph.

    Raises:
        InputError: it changes its shape, dtype or place in ways that no graph can follow.
    """
    if probe.faults:
        raise InputError(f"{probe.faults[0].words}: such a state cannot be exported")
    for name, rows in probe.first_rows.items():
        if rows:
            raise InputError(f"{name} begins with {rows} rows: a state that grows must begin with none to be exported")
