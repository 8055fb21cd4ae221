"""Where two forms of a model part, in float64: the first position, module and tensors of the state.

What every module gives is recorded in both forms. At the first position where logits differ, the first module whose
outputs differ is at fault, or what computes its inputs from those of the modules before it. A tensor of the state
belongs to it if a change of that tensor reaches this module before all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from causalrn.model.own.copying import modules_of
from causalrn.model.own.state_tree import clone
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.sessions import StepSession
from causalrn.runtimes.snapshot import Array, IntArray

_SAME = 1e-9
"""Two float64 values are the same up to this; hidden casts to float32 make 1e-7, and are told from it."""
_SAME_NARROW = 1e-5
_CHANGE = 1e-2


@dataclass(frozen=True)
class Parting:
    """Where two forms part.

    Attributes:
        step: first position whose logits differ.
        module: path of the first module whose output differs; "" where none was seen that both forms call.
        before: path of the last module before it whose output is the same; "" where there is none.
        tensors: of the state, that reach this module first.
    """

    step: int
    module: str
    before: str
    tensors: tuple[str, ...]

    def describe(self) -> str:
        """A sentence for people."""
        where = f"the forms part at step {self.step}, in float64, too"
        if not self.module:
            return f"{where}; no module was seen that both call: name some with `blocks`"
        same = f", while {self.before} before it does not" if self.before else ""
        read = f"; what reaches it first is {' and '.join(self.tensors)}" if self.tensors else ""
        fresh = "" if self.step else ", from the first token on: it is not only what is carried"
        return f"{where}{fresh}: {self.module} gives other values{same}{read}"


def find_parting(oracle: OwnOracle, tokens: IntArray, step: int) -> Parting:
    """Find it.

    Args:
        tokens: int64 [B, T].
        step: the first position whose logits differ.
    """
    session, same = oracle.recurrent, _SAME_NARROW if oracle.narrow else _SAME
    assert isinstance(session, StepSession)
    with _recorded(modules_of(oracle.forms)) as parallel:
        oracle.forward(tokens)
    before = _state_before(session, tokens, step)
    outputs = _step_outputs(session, tokens, step, before)
    order, bad, good = _first_difference(parallel, outputs, step, tokens.shape[1], same)
    tensors = _readers(session, tokens, step, before, outputs, order, bad) if bad else ()
    session.reset(1)
    return Parting(step, bad, good, tensors)


@contextlib.contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """By path, what modules give, one entry per call, in the order in which they first end."""
    found: dict[str, list[Tensor]] = {}
    paths = {part: path for module in modules for path, part in module.named_modules() if path}

    def after(part: nn.Module, _: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and first.is_floating_point():
            found.setdefault(paths[part], []).append(first.detach().clone())

    hooks = [part.register_forward_hook(after) for part in paths]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _state_before(session: StepSession, tokens: IntArray, step: int) -> list[Tensor]:
    session.reset(len(tokens))
    for position in range(step):
        session.step(tokens[:, position])
    return clone(session.store.tensors)


def _step_outputs(
    session: StepSession, tokens: IntArray, step: int, state: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    with _recorded(modules_of(session.cell.forms)) as found, torch.inference_mode():
        session.cell(torch.from_numpy(tokens[:, step : step + 1].copy()), torch.tensor(step), *clone(state))
    return found


def _first_difference(
    parallel: dict[str, list[Tensor]], outputs: dict[str, list[Tensor]], step: int, steps: int, same: float
) -> tuple[list[str], str, str]:
    """Modules that both forms call, in the step's order; the first that differs; the last before it that does not."""
    order, good = [], ""
    for path, calls in outputs.items():
        others = parallel.get(path, [])
        if len(others) != len(calls):
            continue
        pairs = [_at(one, two, step, steps) for one, two in zip(others, calls, strict=True)]
        if any(pair is None for pair in pairs):
            continue
        order.append(path)
        if max(_error(*pair) for pair in pairs if pair is not None) > same:
            return order, path, good
        good = path
    return order, "", good


def _at(whole: Tensor, one: Tensor, step: int, steps: int) -> tuple[Array, Array] | None:
    """What a module gave for one position in both forms; None where its outputs cannot be paired."""
    for axis in range(whole.ndim):
        if whole.shape[axis] == steps and whole.numel() == steps * one.numel():
            part = whole.select(axis, step)
            return part.numpy(), one.reshape(part.shape).numpy()
    return None


def _error(one: Array, two: Array) -> float:
    largest = float(np.abs(one).max(initial=0.0)) or 1.0
    error = float(np.abs(one - two).max(initial=0.0)) / largest
    return error if np.isfinite(error) else np.inf


def _readers(
    session: StepSession,
    tokens: IntArray,
    step: int,
    state: Sequence[Tensor],
    outputs: dict[str, list[Tensor]],
    order: Sequence[str],
    bad: str,
) -> tuple[str, ...]:
    """Tensors of the state whose change shows in the module `bad`, and in none before it."""
    found = []
    earlier = [path for path in order if path != bad]
    for place, entry in enumerate(session.spec.tensors):
        changed = list(clone(state))
        if not changed[place].numel():
            continue
        changed[place] = _changed(changed[place])
        others = _step_outputs(session, tokens, step, changed)
        if _differs(outputs[bad], others.get(bad, [])) and not any(
            _differs(outputs[path], others.get(path, [])) for path in earlier
        ):
            found.append(entry.name)
    return tuple(found)


def _changed(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        size = float(tensor.abs().max()) or 1.0
        return tensor + _CHANGE * size * (1 + torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)))
    return ~tensor if tensor.dtype == torch.bool else tensor + 1


def _differs(one: Sequence[Tensor], two: Sequence[Tensor]) -> bool:
    return len(one) != len(two) or any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
