"""Whether the two forms of a model agree in float64, and which of them is the reference for everything else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from causalrn.bundle.tolerances import LARGEST_BOUND, LEAST_LOGIT
from causalrn.errors import InputError
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.parting import Parting, find_parting
from causalrn.runtimes.parity.entries import Figure
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.oracle import recurrent_bound
from causalrn.runtimes.parity.reference import Bounds
from causalrn.runtimes.parity.results import Attribution, Cause, LevelResult
from causalrn.runtimes.snapshot import FloatArray, IntArray


@dataclass(frozen=True)
class Agreement64:
    """How far two forms of a model in float64 are from each other.

    Attributes:
        error, allowed: of logits, relative to the largest.
        step: first position that is off; None where there is none.
        at_fault: "step" or "parallel form", or None where they agree.
        why: what tells, in words.
        parting: where they part; None where they agree, or one gives no numbers.
    """

    error: Figure
    allowed: float
    step: int | None
    at_fault: Cause | None
    why: str = ""
    parting: Parting | None = None

    @property
    def agrees(self) -> bool:
        """Whether the forms compute the same."""
        return self.at_fault is None

    def result(self) -> LevelResult:
        """The verdict of the level logits on the form that is at fault."""
        runtime = "parallel, float64" if self.at_fault == "parallel form" else "recurrent, float64"
        tensor = self.parting.module if self.parting is not None and self.parting.module else "logits"
        return LevelResult(
            "logits", runtime, self.agrees, self.why or "the forms agree", self.error, self.allowed, self.step,
            tensor=None if self.agrees else tensor, figures=Figures(),
        )  # fmt: skip

    def attribution(self) -> Attribution:
        """Where and why, for people."""
        assert self.at_fault is not None
        runtime, parting = self.result().subject, self.parting
        tensor = parting.tensors[0] if parting is not None and parting.tensors else "logits"
        place = parting.module if parting is not None else ""
        verdict = self.why if parting is None else f"{parting.describe()}. {self.why}"
        return Attribution("logits", runtime, self.step or 0, tensor, place, self.at_fault, verdict, ())


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
    allowed = _allowed(oracle, largest, bounds)
    errors = np.abs(whole - stepped).max((0, 2))
    bad = np.flatnonzero(~(errors <= allowed))
    error = float(errors.max()) / largest
    if not len(bad):
        return Agreement64(error, allowed / largest, None, None)
    step = int(bad[0])
    why = _parallel_at_fault(oracle, tokens, whole, allowed)
    if why:
        oracle.leads = "recurrent"
        return Agreement64(error, allowed / largest, step, "parallel form", why)
    parting = find_parting(oracle, tokens, step) if np.isfinite(stepped).all() else None
    oracle.leads = "recurrent" if np.isfinite(stepped).all() else "parallel"
    words = "step computes something else than the parallel form, which agrees with itself on shorter sequences"
    return Agreement64(error, allowed / largest, step, "step", words, parting)


def _allowed(oracle: OwnOracle, largest: float, bounds: Bounds) -> float:
    """Rounding in float64; or in float32, where the model itself computes in that."""
    in_float64 = recurrent_bound(largest, bounds)
    return max(in_float64, float(bounds.logits.max())) if oracle.narrow else in_float64


def _parallel_at_fault(oracle: OwnOracle, tokens: IntArray, whole: FloatArray, allowed: float) -> str:
    """Why the parallel form is wrong by itself; "" where nothing says so."""
    if not np.isfinite(whole).all():
        step = int(np.flatnonzero(~np.isfinite(whole).all((0, 2)))[0])
        return f"the parallel form gives NaN or infinity from step {step} on, in float64, too"
    half = max(1, tokens.shape[1] // 2)
    shorter = oracle.forward(tokens[:, :half])
    errors = np.abs(shorter - whole[:, :half]).max((0, 2))
    bad = np.flatnonzero(~(errors <= allowed))
    if len(bad):
        return (
            f"the parallel form contradicts itself: its logits at step {bad[0]} are others in a sequence of {half} "
            f"tokens than in one of {tokens.shape[1]}: it looks ahead, or loses precision"
        )
    noise = oracle.bounds_of_whole(tokens, whole)
    if not noise <= LARGEST_BOUND * float(np.abs(whole).max()):
        return "the parallel form is ill-conditioned: rounding alone may move its logits by more than they are"
    return ""
