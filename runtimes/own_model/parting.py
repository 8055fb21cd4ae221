"""Where two runs of a model part, in float64: the first position, module and tensors of the state.

What every module is given and gives is recorded in both runs. The first module, in the order of computation, whose
output differs shows where they part: it is at fault if it was given the same; else the module around it is, in what it
computes since the last module before. A tensor of the state belongs to it if a change of that tensor reaches this
module before all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causalrn.model.own.copying import modules_of
from causalrn.model.own.state_tree import clone
from causalrn.model.own.step_cell import StepCell
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.recording import Calls, Pairs, aligned, at_position, cut, differ, not_finite, recorded
from causalrn.runtimes.own_model.sessions import StepSession
from causalrn.runtimes.snapshot import IntArray

_SAME = 1e-9
"""Two float64 values are the same up to this; hidden casts to float32 make 1e-7, and are told from it."""
_SAME_NARROW = 1e-5
_CHANGE = 1e-2


@dataclass(frozen=True)
class Parting:
    """Where two runs part.

    Attributes:
        step: first position whose logits differ.
        module: path of the module that computes something else; the class of the outermost one where it is that; ""
            where no module was seen that both runs call.
        shown: path of the first module whose output differs.
        before: path of the last module before it whose output is the same; "" where there is none.
        tensors: of the state, that reach it first.
        unread: tensors of the state that reach nothing at all.
        is_lookup: whether `shown` is given other whole numbers, e.g. other positions.
    """

    step: int
    module: str
    shown: str = ""
    before: str = ""
    tensors: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    is_lookup: bool = False

    @property
    def tensor(self) -> str:
        """The tensor of the state that is involved; "" where none is known."""
        return next(iter((*self.tensors, *self.unread)), "")

    def describe(self) -> str:
        """Half a sentence for people: "blocks.1 computes something else between blocks.1.norm and blocks.1.out"."""
        if not self.module:
            return "no module was seen that both call: name some with `blocks`"
        if self.is_lookup:
            words = f"{self.shown} is given other numbers"
        elif self.module == self.shown:
            words = f"{self.module} is the first module whose output differs"
        else:
            place = f"between {self.before} and {self.shown}" if self.before else f"before {self.shown}"
            words = f"{self.module} computes something else {place}"
        if self.tensors:
            return f"{words}; it reads {' and '.join(self.tensors)}"
        return f"{words}; {' and '.join(self.unread)} is never read" if self.unread else words


def find_parting(oracle: OwnOracle, tokens: IntArray, step: int) -> Parting:
    """Where the step parts from the parallel form.

    Args:
        tokens: int64 [B, T].
        step: the first position whose logits differ.
    """
    with recorded(modules_of(oracle.forms)) as parallel:
        oracle.forward(tokens)
    return _from_step(oracle, tokens, step, parallel, at_position(step, tokens.shape[1], len(tokens)))


def find_prefill_parting(oracle: OwnOracle, tokens: IntArray, start: int, step: int) -> Parting:
    """Where the step parts from a prefill of all tokens from `start` on."""
    _, _, calls = prefill(oracle, tokens, start)
    return _from_step(oracle, tokens, step, calls, at_position(step - start, tokens.shape[1] - start, len(tokens)))


def find_contradiction(oracle: OwnOracle, tokens: IntArray, length: int, step: int) -> Parting:
    """Where the parallel form over all tokens parts from itself over fewer."""
    with recorded(modules_of(oracle.forms)) as whole:
        oracle.forward(tokens)
    with recorded(modules_of(oracle.forms)) as part:
        oracle.forward(tokens[:, :length])
    return _parting(oracle, step, part, _first(whole, part, cut(length, tokens.shape[1]), _same(oracle)))


def find_not_finite(oracle: OwnOracle, tokens: IntArray, step: int) -> Parting:
    """Where NaN or infinity first comes up in the parallel form."""
    with recorded(modules_of(oracle.forms)) as calls:
        oracle.forward(tokens)
    return _parting(oracle, step, calls, _first(calls, calls, aligned, None))


def compare_calls(oracle: OwnOracle, step: int, calls: Calls, others: Calls, pairs: Pairs) -> Parting:
    """Where two runs part whose values are paired in some way."""
    return _parting(oracle, step, others, _first(calls, others, pairs, _same(oracle)))


def prefill(oracle: OwnOracle, tokens: IntArray, start: int) -> tuple[Tensor, list[Tensor], Calls]:
    """A prefill from `start` on, onto the state that steps lead to: logits, the next state, what modules gave."""
    session = oracle.recurrent
    assert isinstance(session, StepSession)
    state = _state_before(session, tokens, start)
    session.reset(1)
    cell = StepCell(oracle.forms, session.cell.tree, session.spec)
    with recorded(modules_of(oracle.forms)) as calls, torch.inference_mode():
        logits, *after = cell(torch.from_numpy(tokens[:, start:].copy()), torch.tensor(start), *state)
    return logits, after, calls


def _same(oracle: OwnOracle) -> float:
    return _SAME_NARROW if oracle.narrow else _SAME


@dataclass(frozen=True)
class _First:
    """The first module that differs, and the last one before it that does not; "" where there is none."""

    shown: str
    before: str
    given_same: bool
    is_lookup: bool


def _from_step(oracle: OwnOracle, tokens: IntArray, step: int, calls: Calls, pairs: Pairs) -> Parting:
    """Where a step parts from a run over several tokens, with the tensors of the state that play a part."""
    session = oracle.recurrent
    assert isinstance(session, StepSession)
    before = _state_before(session, tokens, step)
    logits, outputs = _step_outputs(session, tokens, step, before)
    first = _first(calls, outputs, pairs, _same(oracle))
    parting = _parting(oracle, step, outputs, first)
    tensors: list[str] = []
    unread: list[str] = []
    for place, entry in enumerate(session.spec.tensors):
        if not before[place].numel() or not first.shown:
            continue
        changed = [_changed(value) if place == index else value for index, value in enumerate(clone(before))]
        others_logits, others = _step_outputs(session, tokens, step, changed)
        reached = [path for path in outputs if differ(outputs[path], others.get(path, []))]
        if not reached and torch.equal(logits, others_logits):
            unread.append(entry.name)
            continue
        at_once = first.shown in reached and not _earlier(list(outputs), first.shown) & set(reached)
        if at_once or not torch.isfinite(before[place]).all():
            tensors.append(entry.name)
    session.reset(1)
    return Parting(
        step, parting.module, parting.shown, parting.before, tuple(tensors), tuple(unread), parting.is_lookup
    )


def _earlier(order: Sequence[str], path: str) -> set[str]:
    return set(order[: order.index(path)])


def _parting(oracle: OwnOracle, step: int, calls: Calls, first: _First) -> Parting:
    """The module at fault: the one that shows it where it was given the same, else the one around it."""
    if not first.shown:
        return Parting(step, "")
    module = first.shown if first.given_same or first.is_lookup else _around(oracle, first.shown)
    return Parting(step, module, first.shown, first.before, is_lookup=first.is_lookup)


def _around(oracle: OwnOracle, path: str) -> str:
    """The module that calls a module: no list of modules; the class of the outermost."""
    outermost = modules_of(oracle.forms)
    while path:
        path = path.rpartition(".")[0]
        for module in outermost:
            part = dict(module.named_modules()).get(path)
            if part is not None and path and not isinstance(part, nn.ModuleList | nn.ModuleDict):
                return path
    return type(outermost[0]).__name__


def _state_before(session: StepSession, tokens: IntArray, step: int) -> list[Tensor]:
    session.reset(len(tokens))
    for position in range(step):
        session.step(tokens[:, position])
    return clone(session.store.tensors)


def _step_outputs(session: StepSession, tokens: IntArray, step: int, state: Sequence[Tensor]) -> tuple[Tensor, Calls]:
    with recorded(modules_of(session.cell.forms)) as found, torch.inference_mode():
        logits, *_ = session.cell(
            torch.from_numpy(tokens[:, step : step + 1].copy()), torch.tensor(step), *clone(state)
        )
    return logits, found


def _first(calls: Calls, others: Calls, pairs: Pairs, same: float | None) -> _First:
    """The first difference in the order of `others`; without `same`, the first that is not finite."""
    differs: Callable[[Tensor, Tensor], bool] = not_finite if same is None else _differing(pairs, same)
    good = ""
    for path, twins in others.items():
        ones = calls.get(path, [])
        if len(ones) != len(twins) or not all(pairs(one[1], two[1]) for one, two in zip(ones, twins, strict=True)):
            continue
        bad = [(one, two) for one, two in zip(ones, twins, strict=True) if differs(one[1], two[1])]
        if bad:
            (given, _), (twin, _) = bad[0]
            same_given = given is None or twin is None or not pairs(given, twin) or not differs(given, twin)
            is_lookup = not same_given and given is not None and not (given.is_floating_point() or given.is_complex())
            return _First(path, good, same_given, is_lookup)
        good = path
    return _First("", good, given_same=True, is_lookup=False)


def _differing(pairs: Pairs, same: float) -> Callable[[Tensor, Tensor], bool]:
    """Whether two values differ, in whatever way they can be paired."""

    def differs(one: Tensor, two: Tensor) -> bool:
        return min(_error(*pair) for pair in pairs(one, two)) > same

    return differs


def _error(one: Tensor, two: Tensor) -> float:
    if not one.numel():
        return 0.0
    one, two = (value.to(torch.complex128 if value.is_complex() else torch.float64) for value in (one, two))
    error = float((one - two).abs().max()) / (float(one.abs().max()) or 1.0)
    return error if error < torch.inf else torch.inf


def _changed(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        size = float(tensor.abs().max()) or 1.0
        return tensor + _CHANGE * size * (1 + torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)))
    return ~tensor if tensor.dtype == torch.bool else tensor + 1
