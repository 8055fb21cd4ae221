"""Late windows of golden vectors: a bundle's way of checking positions up to the capacity without the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from causalrn.model.config import Configuration
from causalrn.runtimes.parity.calls.table import call_steps, call_tokens, known_positions
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.training.card import ModelCard

_LATE_WORK = 1_200_000_000
"""Values of hidden layers that the oracle reads for late windows: a few seconds."""
_LATE_VALUES = 1 << 18
"""Logits that late windows keep: a megabyte."""


@dataclass(frozen=True)
class LateWindows:
    """Rows of tokens up to the capacity, and what the oracle gives at some positions: the last ones, those at edges.

    Attributes:
        tokens: int64 [R, S]; the first rows begin with the reference's.
        positions: int64 [K], ascending.
        logits: float32 [R, K, V].
    """

    tokens: IntArray
    positions: IntArray
    logits: FloatArray


def late_tokens(card: ModelCard, begin: IntArray, capacity: int | None, *, has_pool: bool) -> tuple[IntArray, IntArray]:
    """Rows for late windows, [R, S], and the positions to keep, [K]; the rows begin with the tokens `begin`."""
    steps = call_steps(card.config, capacity, has_pool=has_pool, most_work=_LATE_WORK)
    tokens = call_tokens(card, np.random.default_rng(1), steps, begin)
    return tokens, known_positions(steps, _LATE_VALUES // (len(tokens) * card.config.vocabulary))


def check_late(late: LateWindows, begin: IntArray, config: Configuration) -> None:
    """Check late windows, which may reach beyond the bundle's capacity: they are cut to it.

    Raises:
        ValueError: something does not fit.
    """
    tokens, positions = late.tokens, late.positions
    if tokens.dtype != np.int64 or tokens.ndim != 2 or len(tokens) < len(begin) or tokens.shape[1] < 2:
        raise ValueError(f"late tokens {tokens.dtype} {list(tokens.shape)}")
    if tokens.min() < 0 or tokens.max() >= config.vocabulary:
        raise ValueError("late tokens outside the vocabulary")
    length = min(tokens.shape[1], begin.shape[1])
    if not np.array_equal(tokens[: len(begin), :length], begin[:, :length]):
        raise ValueError("late tokens that do not begin as the others")
    if positions.dtype != np.int64 or positions.ndim != 1 or not len(positions) or (np.diff(positions) <= 0).any():
        raise ValueError("late positions that are not in order")
    if positions[0] < 0 or positions[-1] >= tokens.shape[1]:
        raise ValueError("late positions outside the rows")
    logits, shape = late.logits, (len(tokens), len(positions), config.vocabulary)
    if logits.shape != shape or logits.dtype.kind != "f" or not np.isfinite(logits).all():
        raise ValueError(f"late logits {logits.dtype} {list(logits.shape)}, expected numbers {list(shape)}")
