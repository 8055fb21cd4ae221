"""Copy accuracy of a session: teacher-forced and by free-running greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalrn.runtimes.generation import GenerationOptions, choose_tokens
from causalrn.runtimes.session import FloatArray, IntArray, Session
from causalrn.tasks import CopyTask

_BATCH = 250
_GREEDY = GenerationOptions()


@dataclass(frozen=True)
class CopyAccuracy:
    """How many strings, and how many of their letters and EOS, came out right.

    A string counts as copied when every letter and the EOS after it are right.
    """

    strings: int
    copied: int
    tokens: int
    tokens_right: int

    @property
    def accuracy(self) -> float:
        """Share of strings copied whole, 0 to 1."""
        return self.copied / self.strings

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that are right, 0 to 1."""
        return self.tokens_right / self.tokens

    def to_json(self) -> dict[str, Any]:
        """Counts and shares as JSON values."""
        return {**self.__dict__, "accuracy": self.accuracy, "token_accuracy": self.token_accuracy}


def free_running_accuracy(
    session: Session,
    task: CopyTask,
    strings: IntArray,
    on_batch: Callable[[int], object] = lambda count: None,
    *,
    by_steps: bool = False,
) -> CopyAccuracy:
    """Let the session copy each string by itself: its own greedy tokens are fed back.

    Args:
        strings: int64 [count, L].
        on_batch: called with the number of strings after each batch, for progress bars.
        by_steps: take the prompt token by token too, instead of by prefill.
    """
    take_prompt = _take_by_steps if by_steps else Session.prefill

    def decode(session: Session, task: CopyTask, strings: IntArray) -> IntArray:
        logits = take_prompt(session, task.prompts(strings))[:, -1]
        return _decode(session, task, logits)

    return _measure(session, task, strings, decode, on_batch)


def teacher_forced_accuracy(
    session: Session, task: CopyTask, strings: IntArray, on_batch: Callable[[int], object] = lambda count: None
) -> CopyAccuracy:
    """Give the session the right letters and count where its most likely token is the next one.

    A string that is right everywhere here is copied whole by greedy decoding too, and the other way round: up to the
    first error both see the same tokens.
    """
    return _measure(session, task, strings, _teacher_force, on_batch)


def _measure(
    session: Session,
    task: CopyTask,
    strings: IntArray,
    answer: Callable[[Session, CopyTask, IntArray], IntArray],
    on_batch: Callable[[int], object],
) -> CopyAccuracy:
    copied = right = 0
    for batch in _batches(strings):
        session.reset(len(batch))
        correct = answer(session, task, batch) == task.answers(batch)  # [B, L + 1]
        copied += int(correct.all(1).sum())
        right += int(correct.sum())
        on_batch(len(batch))
    session.reset(1)
    return CopyAccuracy(len(strings), copied, len(strings) * (task.length + 1), right)


def _take_by_steps(session: Session, tokens: IntArray) -> FloatArray:
    return np.stack([session.step(column) for column in tokens.T], axis=1)


def _decode(session: Session, task: CopyTask, logits: FloatArray) -> IntArray:
    answers = []
    for index in range(task.length + 1):
        answers.append(choose_tokens(logits, _GREEDY, session.position))
        if index < task.length:
            logits = session.step(answers[-1])
    return np.stack(answers, axis=1)


def _teacher_force(session: Session, task: CopyTask, strings: IntArray) -> IntArray:
    logits = session.prefill(task.inputs(strings))[:, task.length + 1 :]
    answers: IntArray = logits.argmax(-1).astype(np.int64)
    return answers


def _batches(strings: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(strings), _BATCH):
        yield strings[start : start + _BATCH]
