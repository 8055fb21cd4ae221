"""A session's state at one moment, and the arrays that sessions take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.bundle.state_origin import StateOrigin

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Snapshot:
    """A session's state at one moment, independent of the session.

    Attributes:
        position: tokens seen so far.
        batch: number of sequences, advancing in lockstep.
        tensors: the state by name; pools hold `position` rows.
        logits: [B, V] after the last token, so that generation can go on; None at position 0.
        owner: hash of the bundle or weights that the state belongs to.
        text_tails: per row the bytes of a character that generated tokens have begun; () where no row has one.
        checkpoint: hash of the weights that the state is of; "" where that is not known: it fits its owner alone then.
        arithmetic: how weights and pool rows are rounded, see :class:`~causalrn.bundle.state_origin.StateOrigin`.
        model: the configuration as JSON text.
    """

    position: int
    batch: int
    tensors: Mapping[str, Array]
    logits: FloatArray | None
    owner: str = field(repr=False, default="")
    text_tails: tuple[bytes, ...] = ()
    checkpoint: str = field(repr=False, default="")
    arithmetic: str = field(repr=False, default="")
    model: str = field(repr=False, default="")

    @property
    def origin(self) -> StateOrigin:
        """What it belongs to."""
        return StateOrigin(self.owner, self.checkpoint, self.arithmetic, self.model)
