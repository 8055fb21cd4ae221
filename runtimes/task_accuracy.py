"""How well a session does its task: with the right tokens given, and let alone, its own tokens fed back."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.token_choice import choose_tokens
from causalrn.training.tasks import IGNORE, Examples, Task

_BATCH = 250
_GREEDY = GenerationOptions()


@dataclass(frozen=True)
class TaskAccuracy:
    """How many answers came out right.

    Attributes:
        unit: what is counted: "strings", right where every token of the answer is, EOS included; or "bytes".
        counted, right: how many there were, and were right.
        tokens, tokens_right: the same for single tokens.
        loss: mean negative log-likelihood of the right token, in nats; None where the model was let alone.
        by_position: for each position of an answer, how many tokens there were and how many were right.
        by_length: for each length of an answer, how many answers there were and how many were right.
    """

    unit: str
    counted: int
    right: int
    tokens: int
    tokens_right: int
    loss: float | None = None
    by_position: tuple[tuple[int, int], ...] = ()
    by_length: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share that is right, 0 to 1."""
        return self.right / self.counted

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that are right, 0 to 1."""
        return self.tokens_right / self.tokens

    def __add__(self, other: TaskAccuracy) -> TaskAccuracy:
        """Both sets of examples together."""
        tokens, loss = self.tokens + other.tokens, None
        if self.loss is not None and other.loss is not None:
            loss = (self.loss * self.tokens + other.loss * other.tokens) / tokens
        positions = itertools.zip_longest(self.by_position, other.by_position, fillvalue=(0, 0))
        lengths = Counter({length: counted for length, (counted, _) in self.by_length.items()})
        lengths.update({length: counted for length, (counted, _) in other.by_length.items()})
        right = Counter({length: right for length, (_, right) in self.by_length.items()})
        right.update({length: right for length, (_, right) in other.by_length.items()})
        return TaskAccuracy(
            self.unit,
            self.counted + other.counted,
            self.right + other.right,
            tokens,
            self.tokens_right + other.tokens_right,
            loss,
            tuple((counted + more, good + better) for (counted, good), (more, better) in positions),
            {length: (lengths[length], right[length]) for length in sorted(lengths)},
        )

    def entries(self) -> dict[str, Any]:
        """Counts and shares as JSON values."""
        return {
            **self.__dict__,
            "by_position": [list(pair) for pair in self.by_position],
            "by_length": {str(length): list(pair) for length, pair in self.by_length.items()},
            "accuracy": self.accuracy,
            "token_accuracy": self.token_accuracy,
        }


def free_running_accuracy(
    session: Session,
    task: Task,
    examples: Examples,
    on_batch: Callable[[int], object] = lambda count: None,
    *,
    by_steps: bool = False,
) -> TaskAccuracy:
    """Let the session answer each prompt by itself: its own greedy tokens are fed back.

    A task that has no prompt and answer (text) is given the right tokens here too.

    Args:
        on_batch: called with the number of sequences after each batch, for progress bars.
        by_steps: take the prompt token by token too, instead of by prefill.
    """
    if not task.feeds_back and not by_steps:
        return teacher_forced_accuracy(session, task, examples, on_batch)
    take = _take_by_steps if by_steps else Session.prefill

    def answer(session: Session, batch: Examples) -> tuple[IntArray, None]:
        return _decode(session, batch, take, feeds_back=task.feeds_back), None

    return _measure(session, task, examples, answer, on_batch)


def teacher_forced_accuracy(
    session: Session, task: Task, examples: Examples, on_batch: Callable[[int], object] = lambda count: None
) -> TaskAccuracy:
    """Give the session the right tokens and count where its most likely token is the next one.

    An answer that is right everywhere here is given by greedy decoding too, and the other way round: up to the first
    error both see the same tokens.
    """
    return _measure(session, task, examples, _teacher_force, on_batch)


_Answer = Callable[[Session, Examples], tuple[IntArray, float | None]]


def _measure(
    session: Session, task: Task, examples: Examples, answer: _Answer, on_batch: Callable[[int], object]
) -> TaskAccuracy:
    tally = _Tally()
    for batch in batches(examples, session.max_batch):
        session.reset(len(batch))
        answers, loss = answer(session, batch)
        tally.add(batch, answers, loss)
        on_batch(len(batch))
    session.reset(1)
    return tally.accuracy(task.unit)


class _Tally:
    """Counts of what was right, batch by batch."""

    def __init__(self) -> None:
        self.positions: Counter[int] = Counter()
        self.positions_right: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()
        self.lengths_right: Counter[int] = Counter()
        self.losses: list[float] = []

    def add(self, batch: Examples, answers: IntArray, loss: float | None) -> None:
        counts = batch.targets != IGNORE  # [B, T]
        right = (answers == batch.targets) & counts
        place, length = counts.cumsum(1) - 1, counts.sum(1)  # [B, T], [B]
        self.positions.update(place[counts].tolist())
        self.positions_right.update(place[right].tolist())
        self.lengths.update(length.tolist())
        self.lengths_right.update(length[right.sum(1) == length].tolist())
        self.losses += [] if loss is None else [loss]

    def accuracy(self, unit: str) -> TaskAccuracy:
        tokens, tokens_right = self.positions.total(), self.positions_right.total()
        strings = self.lengths.total(), self.lengths_right.total()
        return TaskAccuracy(
            unit,
            *(strings if unit == "strings" else (tokens, tokens_right)),
            tokens,
            tokens_right,
            sum(self.losses) / tokens if self.losses else None,
            tuple((self.positions[place], self.positions_right[place]) for place in sorted(self.positions)),
            {length: (self.lengths[length], self.lengths_right[length]) for length in sorted(self.lengths)},
        )


def _take_by_steps(session: Session, tokens: IntArray) -> FloatArray:
    return np.stack([session.step(column) for column in tokens.T], axis=1)


def _decode(
    session: Session, batch: Examples, take: Callable[[Session, IntArray], FloatArray], *, feeds_back: bool
) -> IntArray:
    """The most likely token at every position from the first that counts on, int64 [B, T].

    Where an answer has begun, its own last token goes in; where it has not or is over, the given one.
    """
    counts = batch.targets != IGNORE
    first, last = np.flatnonzero(counts.any(0))[[0, -1]]
    answers = np.full_like(batch.inputs, IGNORE - 1)  # equal to no target
    logits = take(session, batch.inputs[:, : first + 1])[:, -1]
    answers[:, first] = choose_tokens(logits, _GREEDY, session.position)
    for index in range(first + 1, last + 1):
        own = counts[:, index - 1] & feeds_back
        logits = session.step(np.where(own, answers[:, index - 1], batch.inputs[:, index]))
        answers[:, index] = choose_tokens(logits, _GREEDY, session.position)
    return answers


def _teacher_force(session: Session, batch: Examples) -> tuple[IntArray, float]:
    logits = session.prefill(batch.inputs)
    counts = batch.targets != IGNORE
    scores, right = logits[counts].astype(np.float64), batch.targets[counts]  # [n, V], [n]
    largest = scores.max(-1)
    log_sums = largest + np.log(np.exp(scores - largest[:, None]).sum(-1))
    loss = float((log_sums - np.take_along_axis(scores, right[:, None], 1)[:, 0]).sum())
    answers: IntArray = logits.argmax(-1).astype(np.int64)
    return answers, loss


def batches(examples: Examples, most: int | None = None) -> Iterator[Examples]:
    """The examples, as many at a time as are answered together; `most` is what a session takes."""
    size = min(_BATCH, most or _BATCH)
    for start in range(0, len(examples), size):
        yield examples.rows(slice(start, start + size))
