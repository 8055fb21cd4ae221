"""Whether the forms of a model agree in float64, and which of them is the reference for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from causalrn.bundle.tolerances import LARGEST_BOUND, LEAST_LOGIT
from causalrn.errors import InputError
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.parting import (
    Parting,
    find_contradiction,
    find_not_finite,
    find_parting,
    find_prefill_parting,
    prefill,
)
from causalrn.runtimes.own_model.sessions import numbers, to_array
from causalrn.runtimes.own_model.watching import NarrowOperation, some
from causalrn.runtimes.parity.comparison import relative_error
from causalrn.runtimes.parity.entries import Figure
from causalrn.runtimes.parity.oracle import recurrent_bound
from causalrn.runtimes.parity.reference import Bounds
from causalrn.runtimes.parity.results import Attribution, Cause, Level, LevelResult
from causalrn.runtimes.snapshot import FloatArray, IntArray


@dataclass(frozen=True)
class Agreement64:
    """How far two forms of a model in float64 are from each other.

    Attributes:
        error, allowed: of logits, relative to the largest.
        step: first position that is off; None where there is none.
        at_fault: "step", "prefill" or "parallel form", or None where they agree.
        why: what tells, in words.
        parting: where they part; None where they agree, or it cannot be told.
        chance: modules that draw random numbers, which is why.
        level: "logits", "split" of a prefill, or "drift" of a longer run.
        tensor: of the state, that alone is off.
    """

    error: Figure
    allowed: float
    step: int | None
    at_fault: Cause | None
    why: str = ""
    parting: Parting | None = None
    chance: tuple[str, ...] = ()
    level: Level = "logits"
    tensor: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the forms compute the same."""
        return self.at_fault is None

    @property
    def place(self) -> str:
        """The module that is to blame; "" where it is not known."""
        if self.chance:
            return self.chance[0]
        return "" if self.parting is None else self.parting.module

    def by_chance(self, parts: Sequence[str]) -> Agreement64:
        """The same where modules draw random numbers: no form is wrong then, and nothing else can be told."""
        if self.agrees or not parts:
            return self
        why = f"{', '.join(parts[:3])} draws random numbers, so no two runs give the same"
        return replace(self, why=why, parting=None, chance=tuple(parts))

    def result(self) -> LevelResult:
        """The verdict of its level on the form that is at fault."""
        form = {"parallel form": "parallel", "prefill": "prefill"}.get(self.at_fault or "", "recurrent")
        words = self.why or "the forms agree"
        if self.at_fault is not None and not self.chance:
            words = f"{words}, from step {self.step} on"
        return LevelResult(
            self.level, f"{form}, float64", self.agrees, words, self.error, self.allowed, self.step,
            tensor=None if self.agrees else self.tensor or self.place or "logits",
        )  # fmt: skip

    def attribution(self) -> Attribution:
        """Where and why, for people."""
        assert self.at_fault is not None
        tensor = self.tensor or (self.parting.tensor if self.parting is not None else "") or "logits"
        verdict = f"{self.why}, from step {self.step} on, in float64, too"
        if self.chance:
            verdict = self.why
        elif self.parting is not None:
            verdict += f": {self.parting.describe()}"
        cause: Cause = "randomness" if self.chance else self.at_fault
        return Attribution(self.level, self.result().subject, self.step or 0, tensor, self.place, cause, verdict, ())


def compare_forms(oracle: OwnOracle, tokens: IntArray) -> Agreement64:
    """Run both forms in float64; from then on `oracle` leads with the one that can be trusted.

    Raises:
        InputError: neither form gives numbers, or only zeros.
    """
    whole, stepped = oracle.forward(tokens), oracle.stepped(tokens)
    if not np.isfinite(stepped).all() and not np.isfinite(whole).all():
        raise InputError("both forms give NaN or infinity, in float64, too: there is nothing to compare")
    largest = float(np.abs(stepped if np.isfinite(stepped).all() else whole).max())
    if not largest >= LEAST_LOGIT:
        raise InputError("the model's logits are all zero, or nearly: there is nothing to compare")
    bounds = oracle.bounds_of_steps(tokens, stepped)
    allowed = allowed_error(oracle, largest, bounds)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        errors = np.abs(whole - stepped).max((0, 2))
    bad = np.flatnonzero(~(errors <= allowed))
    found = Agreement64(float(errors.max()) / largest, allowed / largest, None, None)
    if not len(bad):
        return found
    blamed = blame_form(oracle, tokens, replace(found, step=int(bad[0])), whole, stepped, allowed)
    if blamed.at_fault != "step" or np.isfinite(stepped).all():
        oracle.leads = "recurrent"
    return blamed


def blame_form(
    oracle: OwnOracle, tokens: IntArray, found: Agreement64, whole: FloatArray, stepped: FloatArray, allowed: float
) -> Agreement64:
    """Which of two forms that differ is wrong, from which step on, and where they part.

    Args:
        tokens: int64 [B, T].
        found: their difference, and the first step that is off.
        whole, stepped: what the forms give, float64 [B, T, V].
        allowed: how far they may be from each other, absolute.
    """
    against = _parallel_at_fault(oracle, tokens, found, whole, allowed)
    if against is not None:
        return against
    step, why = found.step or 0, "step gives NaN or infinity"
    if np.isfinite(stepped).all():
        halves, words = _halves(oracle.narrow_steps), "step gives other logits than the parallel form"
        why = f"{words}: it computes {halves}" if halves else words
    else:
        step = int(np.flatnonzero(~np.isfinite(stepped).all((0, 2)))[0])
    return replace(found, step=step, at_fault="step", why=why, parting=find_parting(oracle, tokens, step))


def allowed_error(oracle: OwnOracle, largest: float, bounds: Bounds) -> float:
    """How far two forms may be apart, absolute: rounding in float64; in float32 where the model computes in that."""
    in_float64 = recurrent_bound(largest, bounds)
    return max(in_float64, float(bounds.logits.max())) if oracle.narrow else in_float64


def _halves(operations: Sequence[NarrowOperation]) -> str:
    """What is computed in 16 bits, in words; "" where nothing is."""
    narrow = [each for each in operations if each.dtype != "float32"]
    return f"in {narrow[0].dtype}: {some(narrow)}" if narrow else ""


def _parallel_at_fault(
    oracle: OwnOracle, tokens: IntArray, found: Agreement64, whole: FloatArray, allowed: float
) -> Agreement64 | None:
    """Why the parallel form is wrong by itself; None where nothing says so."""
    found, step = replace(found, at_fault="parallel form"), found.step or 0
    if not np.isfinite(whole).all():
        step = int(np.flatnonzero(~np.isfinite(whole).all((0, 2)))[0])
        words = "the parallel form gives NaN or infinity"
        return replace(found, step=step, why=words, parting=find_not_finite(oracle, tokens, step))
    half = max(1, tokens.shape[1] // 2)
    bad = np.flatnonzero(~(np.abs(oracle.forward(tokens[:, :half]) - whole[:, :half]).max((0, 2)) <= allowed))
    if len(bad):
        step = int(bad[0])
        words = (
            f"the parallel form reads tokens that come later, or loses precision: it gives other logits with "
            f"{half} tokens than for the first {half} of {tokens.shape[1]}"
        )
        return replace(found, step=step, why=words, parting=find_contradiction(oracle, tokens, half, step))
    halves = _halves(oracle.narrow_whole)
    if halves and not _halves(oracle.narrow_steps):
        words = f"the parallel form, and not step, computes {halves}"
        return replace(found, why=words, parting=find_parting(oracle, tokens, step))
    noise = oracle.bounds_of_whole(tokens, whole)
    if not noise <= LARGEST_BOUND * float(np.abs(whole).max()):
        words = "the parallel form is ill-conditioned (rounding alone may move its logits by more than they are)"
        return replace(found, why=words)
    return None


def compare_prefill(oracle: OwnOracle, tokens: IntArray, allowed: float | None = None) -> Agreement64 | None:
    """Prefill against steps in float64, onto a fresh state and onto another; None without a prefill.

    Args:
        allowed: how far two forms may be from each other, relative to the largest logit; None estimates it.

    Raises:
        InputError: `prefill` raised something, or gives what it must not.
    """
    if oracle.forms.prefill is None:
        return None
    stepped = oracle.stepped(tokens)
    largest = float(np.abs(stepped).max())
    if allowed is None:
        allowed = allowed_error(oracle, largest, oracle.bounds_of_steps(tokens, stepped)) / largest
    found = Agreement64(0.0, allowed, None, None, level="split")
    for start in dict.fromkeys((0, tokens.shape[1] // 2)):
        logits, after, _ = prefill(oracle, tokens, start)
        errors = np.abs(numbers(logits) - stepped[:, start:]).max((0, 2))
        bad = np.flatnonzero(~(errors <= allowed * largest))
        found = replace(found, error=max(found.error or 0.0, float(errors.max()) / largest))
        onto = f"onto the state after {start} tokens" if start else "onto a fresh state"
        words = f"a prefill {onto} gives other logits than steps"
        if len(bad):
            step = start + int(bad[0])
            parting = find_prefill_parting(oracle, tokens, start, step)
            return replace(found, step=step, at_fault="prefill", why=words, parting=parting)
        tensor = _other_state(oracle, tokens, [to_array(value) for value in after], allowed)
        if tensor:
            words = f"a prefill {onto} leaves another {tensor} than steps"
            return replace(found, step=tokens.shape[1] - 1, at_fault="prefill", why=words, tensor=tensor)
    return found


def _other_state(oracle: OwnOracle, tokens: IntArray, after: Sequence[FloatArray], allowed: float) -> str:
    """The first tensor of the state after a prefill that is another one after steps; "" where none is."""
    end = tokens.shape[1]
    expected = oracle.states_after(tokens)
    for name, value in zip((tensor.name for tensor in oracle.recurrent.spec.tensors), after, strict=True):
        other = expected[name]
        same = value.shape == other.shape and (not value.size or relative_error(value, other) <= allowed * end)
        if not same:
            return name
    return ""
