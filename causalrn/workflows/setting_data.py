"""What settings are compared on: strings of a task, pieces of a text, or sequences of token ids. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import ALPHABET_SIZES
from causalrn.errors import InputError
from causalrn.model.config import ModelConfig
from causalrn.training.tasks import IGNORE, CopyTask, Corpus, Examples, Task, TextTask, make_task, random_source
from causalrn.workflows.token_ids import load_token_ids

_BLOCK = 64
_LEAST_SEQUENCES = 8
_PIECE = 64
"""Tokens per piece of a text, where the model has as many positions."""


class SettingData(ABC):
    """Strings in one order: more of them begin with those that there were.

    Attributes:
        name: what they are, in words.
        task: what the model was trained on, if it predicts them.
        available: how many there are; None without end.
    """

    name: str
    task: Task | None
    available: int | None

    @abstractmethod
    def first(self, count: int) -> Examples:
        """The first `count` strings."""

    def chance(self, count: int) -> float:
        """Loss of guessing by how often each token is a target, in nats per target token.

        With Miller and Madow's correction, for a few strings hold fewer tokens than there are.
        """
        targets = self.first(count).targets
        targets = targets[targets != IGNORE]
        _, counts = np.unique(targets, return_counts=True)
        shares = counts / counts.sum()
        return float(-(shares * np.log(shares)).sum()) + (len(counts) - 1) / (2 * len(targets))


@dataclass
class TaskData(SettingData):
    """Random strings of a task."""

    task: Task
    seed: int
    _blocks: list[Examples] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.available = self.task.describe(), None

    def first(self, count: int) -> Examples:
        """Drawn in blocks, so that more strings begin with the same ones."""
        while len(self._blocks) * _BLOCK < count:
            self._blocks.append(self.task.draw("convert", _BLOCK, self.seed, len(self._blocks)))
        blocks = self._blocks[: -(-count // _BLOCK)]
        inputs, targets = (np.concatenate([getattr(b, part) for b in blocks]) for part in ("inputs", "targets"))
        return Examples(inputs[:count], targets[:count])


@dataclass
class FixedData(SettingData):
    """Sequences [N, T + 1] that are there, every token but the first a target."""

    name: str
    sequences: npt.NDArray[np.int64]
    task: Task | None = None

    def __post_init__(self) -> None:
        self.available = len(self.sequences)

    def first(self, count: int) -> Examples:
        """As they stand in the file."""
        return Examples(self.sequences[:count, :-1], self.sequences[:count, 1:])


@dataclass(frozen=True)
class DataOptions:
    """What a user says about the strings.

    Attributes:
        task: name of a task; None takes copying where the model has the vocabulary for it.
        length: letters per string, or bytes per piece; None takes what the positions allow.
        text: a file whose bytes are predicted.
        tokens: a .npy file of token ids [N, T].
        seed: of random strings.
    """

    task: str | None = None
    length: int | None = None
    text: Path | None = None
    tokens: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.text is not None and self.tokens is not None:
            raise InputError("`text` and `tokens` contradict each other: give one of them")
        if self.tokens is not None and (self.task is not None or self.length is not None):
            asked = "task" if self.task is not None else "length"
            raise InputError(f"`tokens` and `{asked}` contradict each other: sequences of tokens need none")
        if self.text is not None and self.task not in (None, TextTask.name):
            raise InputError(f"`text` and `task` {self.task} contradict each other")
        if self.task == TextTask.name and self.text is None:
            raise InputError("`task` text needs `text`, the file")

    @property
    def is_named(self) -> bool:
        """Whether any of it is named but the seed."""
        return any(value is not None for value in (self.task, self.length, self.text, self.tokens))

    def data_for(self, config: ModelConfig) -> SettingData | None:
        """The strings for a model of these sizes; None where there are none that it could know.

        Raises:
            InputError: a file or a task that does not fit the model.
        """
        if self.tokens is not None:
            return _tokens_of(self.tokens, config)
        if self.text is not None:
            return self._pieces(self.text, config)
        letters = config.vocabulary == ALPHABET_SIZES["letters"]
        if self.task is None and self.length is None and (not letters or (config.capacity or 0) < 4):
            return None
        name = self.task or CopyTask.name
        if not letters:
            raise InputError(
                f"`task` {name} has {ALPHABET_SIZES['letters']} tokens, the model {config.vocabulary}: "
                "give `text` or `tokens`"
            )
        return TaskData(make_task(name, self._letters(config)), self.seed)

    def _letters(self, config: ModelConfig) -> int:
        if self.length is None and config.capacity is None:
            raise InputError("a model without positions does not tell its task's `length`: name it")
        length = self.length or CopyTask.length_for(config.capacity or 0)
        if config.capacity is not None and not 1 <= length <= CopyTask.length_for(config.capacity):
            raise InputError(f"`length` {length} needs {2 * (length + 1)} positions, the model has {config.capacity}")
        return length

    def _pieces(self, text: Path, config: ModelConfig) -> SettingData:
        """Pieces that do not overlap, in random order: overlapping ones would count twice."""
        if config.vocabulary != ALPHABET_SIZES["bytes"]:
            raise InputError(f"`text` is bytes, 256 tokens, and the model has {config.vocabulary}: give `tokens`")
        length = self.length or min(config.capacity or _PIECE, _PIECE)
        if config.capacity is not None and length > config.capacity:
            raise InputError(f"`length` {length} is beyond the model's {config.capacity} positions")
        corpus = Corpus.open(text)
        count = (len(corpus.data) - 1) // length
        if count < _LEAST_SEQUENCES:
            raise InputError(f"{text}: {count} pieces of {length} bytes are too few: give a longer text")
        starts = random_source("convert", self.seed).permutation(count) * length
        pieces = corpus.data[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        return FixedData(f"{text.name}, pieces of {length} bytes", pieces, TextTask(config.capacity or length))


def _tokens_of(path: Path, config: ModelConfig) -> SettingData:
    ids = load_token_ids(path)
    count, length = ids.shape
    if count < _LEAST_SEQUENCES or length < 2:
        raise InputError(
            f"{path}: {count} sequences of {length} tokens are too few to compare on: give at least "
            f"{_LEAST_SEQUENCES} of 2"
        )
    if ids.min() < 0 or ids.max() >= config.vocabulary:
        raise InputError(f"{path}: token ids from {ids.min()} to {ids.max()}, the vocabulary is {config.vocabulary}")
    if config.capacity is not None and length - 1 > config.capacity:
        raise InputError(f"{path}: {length} tokens per sequence, the model has {config.capacity} positions")
    return FixedData(f"{path.name}, {length} tokens each", ids.astype(np.int64))
