"""Which blocks are delicate: how far rounding may lead in each, and what makes it so. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from causalrn.bundle.tolerances import ILL_CONDITIONED_BOUND, ILL_CONDITIONED_JUMP
from causalrn.runtimes.parity.entries import Figure, ReportEntry
from causalrn.runtimes.parity.reference import Reference


class BlockCondition(ReportEntry, frozen=True):
    """How delicate one block is, on given tokens.

    Attributes:
        pair_condition: largest |(a_i, b_j)| / |a_i + b_j| of a pair that is normalized; None where none is, infinite
            where a pair cancels.
        pair: positions (i, j) of that pair.
        spread: smallest standard deviation over root mean square of what a layer norm reads; 1 for RMS norms.
        weight_norms: spectral norm of each weight matrix: how much it can enlarge an error.
    """

    pair_condition: Figure
    pair: tuple[int, int] | None
    spread: float
    weight_norms: Mapping[str, float]


class BlockReport(ReportEntry, frozen=True):
    """One block: how far rounding may lead in it, and what makes it delicate.

    Attributes:
        block: its number, from 0.
        bound_in, bound_state, bound_out: largest relative error allowed of the stream into it, of its state, and of the
            stream out of it.
        ill_conditioned: whether the error bound explodes here.
        condition: what makes it delicate; None without a checkpoint.
    """

    block: int
    bound_in: Figure
    bound_state: Figure
    bound_out: Figure
    ill_conditioned: bool
    condition: BlockCondition | None

    def describe(self) -> str:
        """For people: how uncertain, and why."""
        worst = max((bound for bound in (self.bound_state, self.bound_out) if bound is not None), default=math.inf)
        text = f"block {self.block} is ill-conditioned: any float32 computation may be off by {worst:.0e} after it"
        if self.condition is None:
            return text
        condition, pair, spread = self.condition.pair_condition, self.condition.pair, self.condition.spread
        if pair is not None and (condition is None or condition * spread > 1):
            finite = condition is not None and math.isfinite(condition)
            size = f"{condition:.0e}" if finite else "without bound"
            return f"{text} (b_{pair[1]} is near -a_{pair[0]}: pair condition {size})"
        return f"{text} (smallest spread in a norm: {spread:.0e})"


def block_reports(reference: Reference, conditions: Sequence[BlockCondition] | None) -> tuple[BlockReport, ...]:
    """Per block what its error bounds are; `conditions` come from a checkpoint."""
    largest = [float(abs(stream).max()) or 1.0 for stream in reference.streams]
    streams = [float(bound[-1]) / size for bound, size in zip(reference.bounds.streams, largest, strict=True)]
    states: dict[int, float] = {}
    for name, bound in reference.bounds.states.items():
        block = reference.places[name].block
        assert block is not None  # a state tensor belongs to one
        states[block] = max(states.get(block, 0.0), bound)
    return tuple(
        BlockReport(
            block,
            streams[block],
            states[block],
            streams[block + 1],
            _is_ill_conditioned(streams[block], max(states[block], streams[block + 1])),
            None if conditions is None else conditions[block],
        )
        for block in range(len(streams) - 1)
    )


def _is_ill_conditioned(bound_in: float, worst: float) -> bool:
    return not worst <= max(ILL_CONDITIONED_BOUND, ILL_CONDITIONED_JUMP * bound_in)
