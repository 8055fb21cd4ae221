"""Calls that have to fail, and what is wrong with a call that should not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.calls.call import Call


@dataclass(frozen=True)
class Problem:
    """What a call did wrong.

    Attributes:
        words: for people.
        error, allowed: relative to the largest |logit| or |state value|; None where nothing was measured.
        position: of the first token that is off; None where it is no token's.
        tensor: what is off, "logits" or a tensor of the state; empty where it is neither.
    """

    words: str
    error: float | None = None
    allowed: float | None = None
    position: int | None = None
    tensor: str = ""


class WrongCallError(Exception):
    """A call that did something wrong; never leaves the level."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.words)
        self.problem = problem


def refused_call(session: CellSession, call: Call) -> None:
    """Make a call that a session has to refuse."""
    batch, vocabulary = session.batch, session.card.config.vocabulary
    match call.what:
        case "capacity":
            over = (session.capacity or 0) - session.position + 1
            session.prefill(np.zeros((batch, over), np.int64))
        case "token":
            session.step(np.full(batch, vocabulary))
        case "negative":
            session.prefill(np.full((batch, 3), -1))
        case "rows":
            session.step(np.zeros(batch + 1, np.int64))
        case "dtype":
            session.prefill(np.zeros((batch, 2)))
        case "reset":
            session.reset(0)
        case "foreign state":
            session.restore(dataclasses.replace(session.snapshot(), owner="another", checkpoint="another"))
        case "no file":
            session.load("no such file")
