"""Token rows that calls read, and what is expected after each token: a look-up, whatever the calls before it were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from causalrn.model.config import Configuration
from causalrn.runtimes.parity.reference import (
    Bounds,
    Reference,
    States,
    batch_axes,
    growing_bound,
    rows_of,
    sample_tokens,
)
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import ModelCard

CALL_ROWS = 4
OTHER_TOKENS = 2.0
"""By how much a bound is wider on tokens for which it was not drawn."""

_EDGES = (16, 32, 64, 128, 256, 512, 1024)
_WITHOUT_CAPACITY = 640
_MOST_STEPS = 4096
_RUN, _RUN_EVERY = 3, 11
_EARLY = (0, 16, 64)
"""Always known: sessions of smaller capacities read the beginning only."""


@dataclass(frozen=True)
class CallTable:
    """Rows of tokens, the logits that are known of them, and how far rounding may lead.

    Attributes:
        tokens: int64 [R, S].
        known: int64 [K], positions whose logits are known, ascending.
        logits: of these positions, float [R, K, V].
        bounds: float64 [K], largest |difference| of a logit allowed.
        states: by position (tokens seen) and tensor, of the first `state_rows` rows; pools at their longest only are
            enough: earlier ones are its first rows.
        state_bounds: by tensor, largest |difference| allowed in the first `drawn` steps, relative to its largest
            |value|; :meth:`state_bound` says what it is at a position.
        drawn: steps for which bounds were computed.
        again: makes the table of other tokens [R, S]; None where there is no oracle.
    """

    tokens: IntArray
    known: IntArray
    logits: FloatArray
    bounds: FloatArray
    states: States
    state_bounds: Mapping[str, float]
    drawn: int
    state_rows: int
    axes: Mapping[str, int]
    again: Callable[[IntArray], CallTable] | None = None
    _index: IntArray = field(init=False)

    def __post_init__(self) -> None:
        index = np.full(self.steps, -1)
        index[self.known] = np.arange(len(self.known))
        object.__setattr__(self, "_index", index)

    @property
    def steps(self) -> int:
        """Tokens per row, S."""
        return int(self.tokens.shape[1])

    @property
    def largest(self) -> float:
        """Largest |logit|."""
        return float(np.abs(self.logits).max())

    def cut(self, capacity: int | None) -> CallTable:
        """The same, no longer than a session's capacity."""
        if capacity is None or capacity >= self.steps:
            return self
        kept = self.known < capacity
        known, logits, bounds = self.known[kept], self.logits[:, kept], self.bounds[kept]
        states = {position: tensors for position, tensors in self.states.items() if position <= capacity}
        return replace(self, tokens=self.tokens[:, :capacity], known=known, logits=logits, bounds=bounds, states=states)

    def of_own(self, logits: FloatArray, allowed: float) -> CallTable:
        """A quantized form's own logits [R, S, V] in place of the oracle's, known everywhere."""
        steps = np.arange(self.steps)
        return replace(
            self, known=steps, logits=logits, bounds=np.full(self.steps, allowed), states={}, state_rows=0, again=None
        )

    def look_up(self, rows: Sequence[int], start: int, count: int) -> tuple[IntArray, FloatArray, FloatArray]:
        """What is expected of so many tokens from `start` on.

        Returns:
            Offsets from `start` of the known ones [k], their logits [B, k, V], and what is allowed [k].
        """
        index = self._index[start : start + count]
        offsets = np.flatnonzero(index >= 0)
        places = index[offsets]
        return offsets, self.logits[list(rows)][:, places], self.bounds[places]

    def state_bound(self, name: str, position: int) -> float:
        """Largest |difference| of a state tensor after so many tokens, relative to its largest |value|."""
        return growing_bound(self.state_bounds[name], self.drawn, position)

    def state(self, rows: Sequence[int], position: int) -> Mapping[str, Array] | None:
        """The reference state of some rows, where it is known."""
        tensors = self.states.get(position)
        if tensors is None or max(rows) >= self.state_rows:
            return None
        return {name: rows_of(value, self.axes[name], list(rows)) for name, value in tensors.items()}


def table_of(
    tokens: IntArray,
    known: IntArray,
    logits: FloatArray,
    reference: Reference,
    *,
    states: States | None = None,
    again: Callable[[IntArray], CallTable] | None = None,
) -> CallTable:
    """A table whose bounds grow out of a reference's over fewer steps.

    Args:
        tokens, known, logits: as in :class:`CallTable`.
        states: of all rows; None takes the reference's, whose tokens the first rows begin with then.
    """
    rows = len(reference.tokens) if states is None else len(tokens)
    return CallTable(
        tokens,
        known,
        logits,
        late_bounds(reference.bounds, known),
        reference.states if states is None else states,
        {name: OTHER_TOKENS * bound for name, bound in reference.bounds.states.items()},
        reference.steps,
        rows,
        batch_axes(reference.spec),
        again,
    )


def late_bounds(bounds: Bounds, positions: IntArray) -> FloatArray:
    """What rounding may do at positions of other tokens, some of them beyond those that errors were drawn for."""
    drawn = len(bounds.logits)
    known = bounds.logits[np.minimum(positions, drawn - 1)]
    return np.array(
        [
            OTHER_TOKENS * growing_bound(float(bound), drawn, int(p) + 1)
            for bound, p in zip(known, positions, strict=True)
        ]
    )


def table_of_reference(reference: Reference) -> CallTable:
    """The reference's own sequences: all that an older bundle has."""
    return table_of(reference.tokens, np.arange(reference.steps), reference.logits, reference)


def call_tokens(card: ModelCard, rng: np.random.Generator, steps: int, begin: IntArray | None = None) -> IntArray:
    """Rows for calls, int64 [R, S]: sequences of the task and random ones, with one token three times running.

    Args:
        begin: token ids [b, n] that the first rows begin with.
    """
    tokens = sample_tokens(card, rng, CALL_ROWS, steps)
    for row in range(CALL_ROWS):
        for start in range(4 + 3 * row, steps - _RUN + 1, _RUN_EVERY):
            tokens[row, start : start + _RUN] = tokens[row, start]
    if begin is not None:
        length = min(steps, begin.shape[1])
        tokens[: len(begin), :length] = begin[:CALL_ROWS, :length]
    return tokens


def call_steps(config: Configuration, capacity: int | None, *, has_pool: bool, most_work: int) -> int:
    """How long rows can be: the capacity, or as far as reading so many values of hidden layers takes the oracle."""
    width = CALL_ROWS * config.hidden_values
    longest = int((2 * most_work / width) ** 0.5) if has_pool else most_work // (16 * width)
    return max(2, min(capacity or _WITHOUT_CAPACITY, longest, _MOST_STEPS))


def call_edges(steps: int) -> list[int]:
    """Positions at which something changes in some runtime: tiles, segments, the end; ascending, from 1 to S."""
    around = {edge + offset for edge in (*_EDGES, steps) for offset in (-1, 0, 1)}
    return sorted(position for position in {1, 2, 3, 5, 8, *around} if 1 <= position <= steps)


def known_positions(steps: int, most: int) -> IntArray:
    """Positions to know logits of, ascending: the last ones, three early ones, those at edges, then the rest.

    Args:
        steps: tokens of a row.
        most: positions, unless that is fewer than the last and the early ones.
    """
    last = list(range(steps - 1, max(-1, steps - 4), -1))
    edges = [edge + offset for edge in reversed(call_edges(steps)) for offset in (0, -1, 1)]
    spread = np.random.default_rng(0).permutation(steps).tolist()
    order = dict.fromkeys(position for position in (*last, *_EARLY, *edges, *spread) if 0 <= position < steps)
    return np.array(sorted(list(order)[: max(len(last) + len(_EARLY), most)]))
