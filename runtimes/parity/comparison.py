"""Comparing what a session said with the reference, value by value: how far, where first, and is that allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from causalrn.bundle.json_values import finite
from causalrn.bundle.tolerances import TIE_PROBABILITY, Budget
from causalrn.runtimes.parity.reference import LOGITS, Reference, Run, is_pool
from causalrn.runtimes.session import Array, FloatArray

_BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """How far one tensor is from the reference, at the place where that is worst for what is allowed there.

    Attributes:
        tensor: "logits", "stream.01", "01.pool", ...
        error: largest |difference|, relative to the tensor's largest |value| in the reference; NaN never passes.
        allowed: largest error allowed there, relative to the same.
        first_bad_step: first position out of tolerance, from 0; None if there is none.
        bad_row: first row of a pool out of tolerance, where that is known.
    """

    tensor: str
    error: float
    allowed: float
    first_bad_step: int | None = None
    bad_row: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is allowed, everywhere."""
        return self.first_bad_step is None

    @property
    def ratio(self) -> float:
        """Error over what is allowed; infinite for NaN."""
        if not np.isfinite(self.error):
            return float("inf")
        return self.error / self.allowed if self.allowed else float("inf")

    @property
    def block(self) -> int | None:
        """The block that computed it; None for the embedding and the head."""
        if self.tensor == LOGITS:
            return None
        if self.tensor.startswith("stream."):
            reader = int(self.tensor.removeprefix("stream."))
            return reader - 1 if reader else None
        return int(self.tensor.partition(".")[0])

    @property
    def place(self) -> str:
        """Where it comes from, for people: "block 3", "embedding" or "head"."""
        if self.block is not None:
            return f"block {self.block}"
        return "head" if self.tensor == LOGITS else "embedding"


def compare_run(run: Run, reference: Reference, names: Iterable[str]) -> list[Deviation]:
    """One deviation per tensor, in the order of computation.

    Args:
        names: the state tensors to compare, at all positions that the run has and the reference, too.
    """
    first, bounds = reference.first, reference.bounds
    deviations = [_over_steps(LOGITS, run.logits, reference.logits, bounds.logits, first)]
    for k, stream in enumerate(run.streams):
        name = stream_name(k, len(run.streams))
        deviations.append(_over_steps(name, stream, reference.streams[k], bounds.streams[k], first))
    positions = sorted(run.states.keys() & reference.states.keys())
    for name in names:
        if positions:
            pairs = [(p, run.states[p][name], reference.states[p][name]) for p in positions]
            deviations.append(_over_positions(name, pairs, bounds.states[name]))
    return sorted(deviations, key=lambda deviation: computation_order(deviation.tensor))


def stream_name(index: int, count: int) -> str:
    """stream.00 is what block 0 reads; as the exporter names them."""
    return f"stream.{index:0{max(2, len(str(count - 1)))}d}"


def computation_order(tensor: str) -> tuple[int, int]:
    """Sorts tensors as they are computed: the stream into a block, the block's state, the stream out of it, logits."""
    if tensor == LOGITS:
        return (1 << 30, 0)
    if tensor.startswith("stream."):
        return (int(tensor.removeprefix("stream.")), 0)
    return (int(tensor.partition(".")[0]), 1)


def merged(several: Sequence[Sequence[Deviation]]) -> list[Deviation]:
    """Per tensor the worst of several comparisons, with the earliest bad step of any."""
    by_tensor: dict[str, list[Deviation]] = {}
    for deviations in several:
        for deviation in deviations:
            by_tensor.setdefault(deviation.tensor, []).append(deviation)
    return [_merge(by_tensor[name]) for name in sorted(by_tensor, key=computation_order)]


def _merge(deviations: Sequence[Deviation]) -> Deviation:
    """The worst error, and the earliest place that is out of tolerance."""
    worst = max(deviations, key=lambda deviation: deviation.ratio)
    bad = [deviation for deviation in deviations if deviation.first_bad_step is not None]
    earliest = min(bad, key=lambda deviation: deviation.first_bad_step or 0, default=worst)
    return replace(worst, first_bad_step=earliest.first_bad_step, bad_row=earliest.bad_row)


def _over_steps(name: str, value: FloatArray, exact: FloatArray, allowed: FloatArray, first: int) -> Deviation:
    """Compare [B, T, n] position by position."""
    errors = step_errors(value, exact)
    largest = float(np.abs(exact).max()) or 1.0
    bad = np.flatnonzero(~(errors <= allowed))  # NaN is bad
    worst = int(bad[0]) if np.isnan(errors).any() else int(np.argmax(errors / allowed))
    first_bad = first + int(bad[0]) if len(bad) else None
    return Deviation(name, float(errors[worst] / largest), float(allowed[worst] / largest), first_bad)


def step_errors(value: FloatArray, exact: FloatArray) -> FloatArray:
    """[T]: the largest |difference| of [B, T, n] at each position, in float64."""
    errors: FloatArray = np.abs(value.astype(np.float64) - exact).max((0, 2))
    return errors


def _over_positions(name: str, pairs: Sequence[tuple[int, Array, Array]], allowed: float) -> Deviation:
    """Compare a state tensor at several positions."""
    deviations = []
    for position, value, exact in pairs:
        errors = _row_errors(value, exact)
        bad = np.flatnonzero(~(errors <= allowed))
        row = int(bad[0]) if len(bad) and is_pool(name) and value.shape == exact.shape else None
        step = position - 1 if len(bad) else None
        deviations.append(Deviation(name, float(np.max(errors, initial=0.0)), allowed, step, row))
    return _merge(deviations)


def relative_error(value: Array, exact: Array) -> float:
    """Largest |difference| over the largest |exact value|; infinite where the shapes differ, NaN stays NaN."""
    return float(np.max(_row_errors(value, exact), initial=0.0))


def _row_errors(value: Array, exact: Array) -> FloatArray:
    """The same for each entry of the first axis."""
    if value.shape != exact.shape:
        return np.array([np.inf])
    largest = float(np.abs(exact).max(initial=0.0)) or 1.0
    errors: FloatArray = np.abs(value.astype(np.float64) - exact).reshape(len(exact), -1).max(1, initial=0.0) / largest
    return errors


@dataclass(frozen=True)
class Agreement:
    """How much the distributions over the next token agree.

    Attributes:
        kl_divergence: mean of KL(exact || said) over positions, in nats.
        argmax_agreement: share of positions with the same most likely token.
        argmax_changes: share of positions whose most likely token is another one, although it is less likely than the
            exact one by more than :data:`~causalrn.bundle.tolerances.TIE_PROBABILITY`: not a tie that a small error may
            tip.
        ambiguous: share of positions where the two most likely tokens are a tie in that sense.
    """

    kl_divergence: float
    argmax_agreement: float
    argmax_changes: float
    ambiguous: float

    def to_json(self) -> Mapping[str, float | None]:
        """The figures as JSON values; NaN becomes null."""
        return {key: finite(value) for key, value in self.__dict__.items()}


def mean_agreement(several: Sequence[Agreement]) -> Agreement:
    """The mean of each figure; NaN stays NaN."""
    columns = zip(*(agreement.__dict__.values() for agreement in several), strict=True)
    return Agreement(*(float(np.mean(column)) for column in columns))


def compare_distributions(value: FloatArray, exact: FloatArray) -> Agreement:
    """Compare logits [B, T, V] as distributions."""
    expected, said = (_log_softmax(logits.astype(np.float64)) for logits in (exact, value))
    probability = np.exp(expected)
    kl = (probability * (expected - said)).sum(-1)  # [B, T]
    first, mine = exact.argmax(-1), value.argmax(-1)
    top = np.sort(probability, axis=-1)
    tie = top[..., -1] - top[..., -2] <= TIE_PROBABILITY if exact.shape[-1] > 1 else np.zeros(first.shape, bool)
    margin = top[..., -1] - np.take_along_axis(probability, mine[..., None], -1)[..., 0]
    changed: _BoolArray = (mine != first) & ~(margin <= TIE_PROBABILITY)  # NaN is a change
    return Agreement(float(kl.mean()), float((mine == first).mean()), float(changed.mean()), float(tie.mean()))


def judge_agreement(agreement: Agreement, budget: Budget) -> tuple[str, bool]:
    """What distributions lost, in a few words, and whether a budget allows it; NaN never passes."""
    words = f"KL {agreement.kl_divergence:.0e}, {100 * agreement.argmax_changes:.3g}% changed"
    within = agreement.kl_divergence <= budget.kl_divergence and agreement.argmax_changes <= budget.argmax_changes
    return words, within


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(-1, keepdims=True)
    out: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return out
