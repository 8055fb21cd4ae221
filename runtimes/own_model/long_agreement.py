"""Whether both forms of a model agree in float64 along the tokens of the drift, too: what parts late."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from causalrn.errors import InputError, NonFiniteError
from causalrn.runtimes.own_model.agreement import Agreement64, allowed_error, blame_form
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.watching import watched
from causalrn.runtimes.parity.oracle import OracleLongReference
from causalrn.runtimes.parity.reference import Bounds
from causalrn.runtimes.snapshot import FloatArray, IntArray

_MOST_VALUES = 1 << 26
"""Logits of the step that are kept: half a gigabyte."""
_GROWTH, _HELD_AT_ONCE = 4, 3
"""Twice the tokens may take four times the time and memory; so many tensors of the largest size may be there."""


class SteppedLongReference(OracleLongReference):
    """The same, that keeps what the step in float64 gives, for the parallel form to be compared with it.

    Attributes:
        is_over: whether the step has given NaN or infinity.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._kept: list[tuple[FloatArray, FloatArray]] = []
        self.is_over = False

    def advance(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """See :meth:`OracleLongReference.advance`; NaN from where the step gives no numbers."""
        if start == 0:
            self._kept, self.is_over = [], False
        try:
            logits, allowed = super().advance(start, end) if not self.is_over else self._nothing(start, end)
        except NonFiniteError:
            logits, allowed = self._nothing(start, end)
        finite = len(logits) if not self.is_over else int(np.isfinite(logits).all(1).argmin())
        if end * logits.shape[-1] <= _MOST_VALUES:
            self._kept.append((logits[:finite], allowed[:finite]))
        return logits, allowed

    def _nothing(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """Steps as long as they give numbers, then NaN."""
        session = self._oracle.recurrent
        logits = np.full((end - start, session.card.config.vocabulary), np.nan)
        if not self.is_over:
            with contextlib.suppress(NonFiniteError):
                for offset, token in enumerate(self.tokens[0, start:end]):
                    logits[offset] = session.step([token])[0]
        self.is_over = True
        return logits, np.array([self._bound(step) for step in range(start, end)])

    @property
    def stepped(self) -> tuple[FloatArray, FloatArray] | None:
        """Logits [S, V] so far, and the largest |difference| that float32 may make at each, [S]; None before all."""
        if not self._kept:
            return None
        logits, allowed = zip(*self._kept, strict=True)
        return np.concatenate(logits), np.concatenate(allowed)


@dataclass(frozen=True)
class LongAgreement:
    """How far both forms were compared in float64.

    Attributes:
        steps: tokens up to which they were.
        found: what differs; None where they agree.
        why: what kept the parallel form from being compared with all of the drift; "" where nothing did.
    """

    steps: int
    found: Agreement64 | None = None
    why: str = ""

    def note(self) -> str:
        """For people."""
        words = f"both forms were compared in float64 over {self.steps:,} tokens"
        return f"{words}, and no further: {self.why}" if self.why else words


def compare_long(oracle: OwnOracle, long: SteppedLongReference, known: int, seconds: float) -> LongAgreement:
    """The parallel form over more and more of the drift's tokens, against the step.

    Args:
        oracle: both forms.
        long: what the step gave.
        known: tokens up to which they are known to agree.
        seconds: how long it may take.
    """
    if long.stepped is None:
        return LongAgreement(known)
    logits, allowed = long.stepped
    began, took, largest_bytes, compared = time.monotonic(), 0.0, 0, known
    for length in _lengths(known, len(logits)):
        if time.monotonic() - began + _GROWTH * took > seconds:
            return LongAgreement(compared, why="there was no time for the parallel form over more")
        if _GROWTH * _HELD_AT_ONCE * largest_bytes > psutil.virtual_memory().available:
            return LongAgreement(compared, why="there is no memory for the parallel form over more")
        start = time.monotonic()
        try:
            whole, largest_bytes = _forward(oracle, long.tokens[:, :length])
        except InputError as error:
            return LongAgreement(compared, why=f"over {length:,} tokens {error}")
        took = time.monotonic() - start
        if not np.isfinite(whole).all():
            return LongAgreement(compared, why=f"over {length:,} tokens the parallel form gives NaN or infinity")
        bounds = Bounds(allowed[:length], np.zeros((0, length)), {})
        found = _difference(oracle, long.tokens[:, :length], whole, logits[None, :length], bounds)
        compared = length
        if found is not None:
            return LongAgreement(compared, found)
    if long.is_over:
        why, largest = "step gives NaN or infinity", float(np.abs(logits).max())
        allowed_here = allowed_error(oracle, largest, Bounds(allowed, np.zeros((0, len(allowed))), {})) / largest
        return LongAgreement(compared, Agreement64(math.nan, allowed_here, len(logits), "step", why, level="drift"))
    return LongAgreement(compared)


def _lengths(known: int, end: int) -> Iterator[int]:
    """Twice as many each time, up to the end."""
    length = known
    while length < end:
        length = min(2 * length, end)
        yield length


def _forward(oracle: OwnOracle, tokens: IntArray) -> tuple[FloatArray, int]:
    """The parallel form, and the bytes of the largest tensor in it."""
    largest = 0

    def look(_: str, out: Any, __: str) -> None:
        nonlocal largest
        if isinstance(out, Tensor):
            largest = max(largest, out.numel() * out.element_size())

    with torch.inference_mode(), watched([], look):
        return oracle.forward(tokens), largest


def _difference(
    oracle: OwnOracle, tokens: IntArray, whole: FloatArray, stepped: FloatArray, bounds: Bounds
) -> Agreement64 | None:
    largest = float(np.abs(stepped).max())
    allowed = allowed_error(oracle, largest, bounds)
    errors = np.abs(whole - stepped).max((0, 2))
    bad = np.flatnonzero(~(errors <= allowed))
    if not len(bad):
        return None
    found = Agreement64(float(errors.max()) / largest, allowed / largest, int(bad[0]), None, level="drift")
    return blame_form(oracle, tokens, found, whole, stepped, allowed)
