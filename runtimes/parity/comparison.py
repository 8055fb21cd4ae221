"""Comparing a session's outputs with the reference, value by value: how far, where first, and is that allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from causalrn.bundle.manifest import stream_names
from causalrn.bundle.state_spec import StateTensor
from causalrn.bundle.tolerances import TIE_PROBABILITY
from causalrn.runtimes.parity.entries import Figure, FigureFloat, ReportEntry
from causalrn.runtimes.parity.logit_fit import FitSums, LogitFit, fit_logits
from causalrn.runtimes.parity.places import LOGITS, describe_place
from causalrn.runtimes.parity.reference import Reference, Run
from causalrn.runtimes.snapshot import Array, FloatArray

_BoolArray = npt.NDArray[np.bool_]


class Deviation(ReportEntry, frozen=True):
    """How far one tensor is from the reference, at the place where that is worst for what is allowed there.

    Attributes:
        tensor: "logits", a value of the residual stream ("stream.NN" is what block NN reads, the last one what the
            head reads), or a tensor of the state ("01.pool", ...).
        error: largest |difference|, relative to the tensor's largest |value| in the reference; NaN never passes.
        allowed: largest error allowed there, relative to the same.
        first_bad_step: first position out of tolerance, from 0; None if there is none.
        bad_row: first row of a pool out of tolerance, where that is known.
        block: number of the block that computed it, from 0; None for the embedding and the head.
    """

    tensor: str
    error: FigureFloat
    allowed: Figure
    first_bad_step: int | None
    bad_row: int | None
    block: int | None

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
    def place(self) -> str:
        """Where it comes from, for people: "block 3", "embedding" or "head"."""
        return describe_place(self.tensor, self.block)


def compare_run(run: Run, reference: Reference, tensors: Iterable[StateTensor]) -> list[Deviation]:
    """One deviation per tensor, in the order of computation.

    Args:
        tensors: of the state, to compare at all positions that the run has and the reference, too.
    """
    first, bounds, found = reference.first, reference.bounds, {}
    found[LOGITS] = _over_steps(LOGITS, None, run.logits, reference.logits, bounds.logits, first)
    places = reference.places
    names = stream_names(len(run.streams) - 1)
    for k, (name, stream) in enumerate(zip(names, run.streams, strict=True)):
        block = places[name].block
        found[name] = _over_steps(name, block, stream, reference.streams[k], bounds.streams[k], first)
    positions = sorted(run.states.keys() & reference.states.keys())
    for tensor in tensors if positions else ():
        pairs = [(p, run.states[p][tensor.name], reference.states[p][tensor.name]) for p in positions]
        found[tensor.name] = _over_positions(tensor, pairs, bounds.states[tensor.name])
    return [found[name] for name in places if name in found]


def merged(several: Sequence[Sequence[Deviation]], places: Iterable[str]) -> list[Deviation]:
    """Per tensor the worst of several comparisons, with the earliest bad step of any.

    Args:
        places: names of what can be compared, in the order of computation, which is that of the result, too.
    """
    by_tensor: dict[str, list[Deviation]] = {}
    for deviations in several:
        for deviation in deviations:
            by_tensor.setdefault(deviation.tensor, []).append(deviation)
    return [_merge(by_tensor[name]) for name in places if name in by_tensor]


def _merge(deviations: Sequence[Deviation]) -> Deviation:
    """The worst error, and the earliest place that is out of tolerance."""
    worst = max(deviations, key=lambda deviation: deviation.ratio)
    bad = [deviation for deviation in deviations if deviation.first_bad_step is not None]
    earliest = min(bad, key=lambda deviation: deviation.first_bad_step or 0, default=worst)
    return replace(worst, first_bad_step=earliest.first_bad_step, bad_row=earliest.bad_row)


def _over_steps(
    name: str, block: int | None, value: FloatArray, expected: FloatArray, allowed: FloatArray, first: int
) -> Deviation:
    """Compare [B, T, n] position by position."""
    errors = step_errors(value, expected)
    largest = float(np.abs(expected).max()) or 1.0
    bad = np.flatnonzero(~(errors <= allowed))  # NaN is bad
    worst = int(bad[0]) if np.isnan(errors).any() else int(np.argmax(errors / allowed))
    first_bad = first + int(bad[0]) if len(bad) else None
    return Deviation(name, float(errors[worst] / largest), float(allowed[worst] / largest), first_bad, None, block)


def step_errors(value: FloatArray, expected: FloatArray) -> FloatArray:
    """[T]: the largest |difference| of [B, T, n] at each position, in float64."""
    errors: FloatArray = np.abs(value.astype(np.float64) - expected).max((0, 2))
    return errors


def _over_positions(tensor: StateTensor, pairs: Sequence[tuple[int, Array, Array]], allowed: float) -> Deviation:
    """Compare a state tensor at several positions."""
    deviations = []
    for position, value, expected in pairs:
        errors = _row_errors(value, expected)
        bad = np.flatnonzero(~(errors <= allowed))
        row = int(bad[0]) if len(bad) and tensor.is_pool and value.shape == expected.shape else None
        step = position - 1 if len(bad) else None
        error = float(np.max(errors, initial=0.0))
        deviations.append(Deviation(tensor.name, error, allowed, step, row, tensor.block))
    return _merge(deviations)


def same_bits(one: Array | None, two: Array | None) -> bool:
    """Whether two arrays are equal bit for bit, shapes too; or both None."""
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and one.tobytes() == two.tobytes()


def same_tensors(one: Mapping[str, Array], two: Mapping[str, Array]) -> bool:
    """Whether two states have the same tensors, bit for bit."""
    return one.keys() == two.keys() and all(same_bits(one[name], two[name]) for name in one)


def relative_error(value: Array, expected: Array) -> float:
    """Largest |difference| over the largest |expected value|; infinite where the shapes differ, NaN stays NaN."""
    return float(np.max(_row_errors(value, expected), initial=0.0))


def _row_errors(value: Array, expected: Array) -> FloatArray:
    """The same for each entry of the first axis."""
    if value.shape != expected.shape:
        return np.array([np.inf])
    largest = float(np.abs(expected).max(initial=0.0)) or 1.0
    differences = np.atleast_1d(np.abs(value.astype(np.float64) - expected))
    errors: FloatArray = differences.reshape(len(differences), -1).max(1, initial=0.0) / largest
    return errors


@dataclass(frozen=True)
class Agreement:
    """How much the distributions over the next token agree.

    Attributes:
        kl_divergence: mean of KL(expected || output) over positions, in nats.
        argmax_agreement: share of positions with the same most likely token.
        argmax_changes: share of positions whose most likely token is another one, although it is less likely than the
            expected one by more than :data:`~causalrn.bundle.tolerances.TIE_PROBABILITY`: not a tie that a small error
            may tip.
        ambiguous: share of positions where the two most likely tokens are a tie in that sense.
        scale, offset: of all logits, by a least-squares fit of each run: the furthest from 1 and 0, the offset
            relative to the largest |logit| (:mod:`causalrn.runtimes.parity.logit_fit`); None in reports that were
            made before they were measured.
        positions: how many there were; None in such reports.
    """

    kl_divergence: FigureFloat
    argmax_agreement: FigureFloat
    argmax_changes: FigureFloat
    ambiguous: FigureFloat
    scale: Figure = None
    offset: Figure = None
    positions: int | None = None


def mean_agreement(several: Sequence[Agreement], fit: LogitFit) -> Agreement:
    """The mean of what distributions have in common, NaN stays NaN; and a fit over all of them."""
    names = ("kl_divergence", "argmax_agreement", "argmax_changes", "ambiguous")
    means = {name: float(np.mean([getattr(agreement, name) for agreement in several])) for name in names}
    positions = sum(agreement.positions or 0 for agreement in several)
    return Agreement(**means, scale=fit.scale, offset=fit.offset, positions=positions)


def compare_runs(runs: Sequence[tuple[FloatArray, FloatArray]]) -> Agreement:
    """Compare runs, output and expected logits [B, T, V] of each: means of what they have in common, the worst fit."""
    return mean_agreement([compare_distributions(output, expected) for output, expected in runs], fit_logits(runs))


def compare_distributions(value: FloatArray, expected: FloatArray) -> Agreement:
    """Compare logits [B, T, V] of one run: as distributions, and their scale and offset."""
    logs, own_logs = (_log_softmax(logits.astype(np.float64)) for logits in (expected, value))
    probability = np.exp(logs)
    kl = (probability * (logs - own_logs)).sum(-1)  # [B, T]
    first, mine = expected.argmax(-1), value.argmax(-1)
    top = np.sort(probability, axis=-1)
    tie = top[..., -1] - top[..., -2] <= TIE_PROBABILITY if expected.shape[-1] > 1 else np.zeros(first.shape, bool)
    margin = top[..., -1] - np.take_along_axis(probability, mine[..., None], -1)[..., 0]
    changed: _BoolArray = (mine != first) & ~(margin <= TIE_PROBABILITY)  # NaN is a change
    fit = FitSums.of(value, expected).fit()
    shares = float((mine == first).mean()), float(changed.mean()), float(tie.mean())
    return Agreement(float(kl.mean()), *shares, fit.scale, fit.offset, first.size)


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(-1, keepdims=True)
    out: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return out
