"""Choosing tokens by their logits, and noticing where rows end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import Alphabet
from causalrn.errors import InputError
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.snapshot import FloatArray, IntArray

_MANY = 4
"""Rows from which on arrays of rows pay."""


class Stops:
    """Where rows end: at a stop token, or where their last tokens spell the stop text."""

    def __init__(self, alphabet: Alphabet | None, options: GenerationOptions) -> None:
        self.ids = options.stop_ids if options.stop_ids is not None else (alphabet.stop_ids if alphabet else ())
        if options.stop is not None and alphabet is None:
            raise InputError("this model has no alphabet: a stop text means nothing to it, use stop token ids")
        self.text = alphabet.encode(options.stop) if options.stop is not None and alphabet is not None else []
        self.rows: dict[int, list[int]] = {}

    def reached(self, tokens: IntArray) -> npt.NDArray[np.bool_]:
        """Which rows end with these tokens, bool [B]."""
        ended: npt.NDArray[np.bool_] = np.isin(tokens, self.ids)
        if self.text:
            for row, token in enumerate(tokens.tolist()):
                self.rows[row] = [*self.rows.get(row, []), token][-len(self.text) :]
                ended[row] |= self.rows[row] == self.text
        return ended


def choose_tokens(logits: FloatArray, options: GenerationOptions, position: int | IntArray) -> IntArray:
    """Choose the next token of every row: logits [B, V] -> int64 [B]. Ties of greedy go to the lowest id.

    Args:
        position: of all rows, or of each of them, [B].
    """
    if options.temperature == 0:
        greedy: IntArray = logits.argmax(-1).astype(np.int64)
        return greedy
    batch = len(logits)
    return draw_tokens(logits, [options] * batch, range(batch), np.broadcast_to(position, batch).tolist())


def draw_tokens(
    logits: FloatArray, options: Sequence[GenerationOptions], rows: Sequence[int], positions: Sequence[int]
) -> IntArray:
    """Draw the next token of sequences at temperatures above 0, each by its seed, row and position alone.

    Args:
        logits: [B, V].
        options: of each sequence; `rows` and `positions` likewise.

    Returns:
        int64 [B]; what a sequence gets does not depend on the others.
    """
    seeds = zip(options, rows, positions, strict=True)
    drawn = [np.random.default_rng([each.seed, row, place]).random() for each, row, place in seeds]
    if len(logits) < _MANY or any(each.top_k for each in options):
        tokens = [_draw(*row) for row in zip(logits, options, drawn, strict=True)]
        return np.array(tokens, np.int64)
    return _draw_many(logits, options, drawn)


def _draw(logits: FloatArray, options: GenerationOptions, drawn: float) -> int:
    """One row, [V], by a number in [0, 1)."""
    with np.errstate(over="ignore"):  # a tiny temperature is greedy
        scaled = (logits.astype(np.float64) - logits.max()) / options.temperature
    order = np.argsort(-scaled, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    cumulative = np.cumsum(weights / weights.sum())
    kept = int(np.searchsorted(cumulative, options.top_p)) + 1 if options.top_p < 1 else len(order)
    cumulative = cumulative[:kept] / cumulative[min(kept, len(order)) - 1]
    return int(order[min(int(np.searchsorted(cumulative, drawn, side="right")), len(cumulative) - 1)])


def _draw_many(logits: FloatArray, options: Sequence[GenerationOptions], drawn: Sequence[float]) -> IntArray:
    """:func:`_draw` of many rows without top-k, [B, V] -> [B], the same bits, in less time."""
    with np.errstate(over="ignore"):
        scaled = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        scaled /= np.array([[each.temperature] for each in options])
    order = np.argsort(-scaled, axis=-1, kind="stable")
    scaled = np.take_along_axis(scaled, order, -1)
    weights = np.exp(scaled - scaled[:, :1])
    cumulative = np.cumsum(weights / weights.sum(-1, keepdims=True), -1)
    top_p, most = np.array([[each.top_p] for each in options]), logits.shape[1]
    kept = np.where(top_p < 1, (cumulative < top_p).sum(-1, keepdims=True) + 1, most)  # [B, 1]
    last = np.minimum(kept, most) - 1
    cumulative /= np.take_along_axis(cumulative, last, -1)
    places = np.minimum((cumulative <= np.array(drawn)[:, None]).sum(-1, keepdims=True), last)
    tokens: IntArray = np.take_along_axis(order, places, -1)[:, 0]
    return tokens
