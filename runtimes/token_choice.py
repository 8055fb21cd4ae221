"""Choosing tokens by their logits, and noticing where rows end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import Alphabet
from causalrn.errors import InputError
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.snapshot import FloatArray, IntArray


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
    places = enumerate(zip(logits, np.broadcast_to(position, len(logits)), strict=True))
    return np.array([draw_token(values, options, row, int(place)) for row, (values, place) in places], dtype=np.int64)


def draw_token(logits: FloatArray, options: GenerationOptions, row: int, position: int) -> int:
    """Draw the next token of one row, logits [V], at a temperature above 0: by seed, row and position alone."""
    rng = np.random.default_rng([options.seed, row, position])
    with np.errstate(over="ignore"):  # a tiny temperature is greedy
        scaled = (logits.astype(np.float64) - logits.max()) / options.temperature
    order = np.argsort(-scaled, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    cumulative = np.cumsum(weights / weights.sum())
    kept = int(np.searchsorted(cumulative, options.top_p)) + 1 if options.top_p < 1 else len(order)
    cumulative = cumulative[:kept] / cumulative[min(kept, len(order)) - 1]
    return int(order[min(int(np.searchsorted(cumulative, rng.random(), side="right")), len(cumulative) - 1)])
