"""What a task is: examples for a purpose, and how they are counted."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import ALPHABET_SIZES, EOS
from causalrn.errors import ConfigError, InputError

IntArray = npt.NDArray[np.int64]

IGNORE = -100
"""Target of positions that do not count: what stands before the answer is random and cannot be predicted."""

PURPOSES = ("train", "evaluate", "verify", "convert", "demo", "calibrate", "quantize")

_LONGEST, _MOST_TOKENS = 1 << 20, 1 << 24
"""What a file may say of a string's length, and how many tokens are drawn at once: 128 MB."""

LETTERS = ALPHABET_SIZES["letters"] - EOS - 1
"""How many letters there are."""


def random_source(purpose: str, seed: int, step: int = 0) -> np.random.Generator:
    """Random numbers for one purpose: strings that a model is judged by are never those it was trained on.

    Args:
        purpose: one of :data:`PURPOSES`; the first key of the stream, so that no two purposes share one.
        step: a further key, for streams that change from step to step.
    """
    return np.random.default_rng([1 + PURPOSES.index(purpose), seed, step])


@dataclass(frozen=True)
class Examples:
    """Sequences with what should come next.

    Attributes:
        inputs: int64 [B, T].
        targets: int64 [B, T], the token after each position, :data:`IGNORE` where it does not count.
    """

    inputs: IntArray
    targets: IntArray

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.inputs)

    @property
    def target_count(self) -> int:
        """Number of tokens that count."""
        return int((self.targets != IGNORE).sum())

    def rows(self, part: slice) -> Examples:
        """Some of the sequences."""
        return Examples(self.inputs[part], self.targets[part])

    def split(self, parts: int) -> list[Examples]:
        """In so many parts of about equal size, in order."""
        pairs = zip(np.array_split(self.inputs, parts), np.array_split(self.targets, parts), strict=True)
        return [Examples(inputs, targets) for inputs, targets in pairs]


@dataclass(frozen=True)
class Task(ABC):
    """A task with sequences of a given length.

    Attributes:
        length: letters per string at most, or bytes per window.

    Raises:
        ConfigError: an impossible length.
    """

    name: ClassVar[str]
    alphabet: ClassVar[str] = "letters"
    unit: ClassVar[str] = "strings"
    """What accuracy counts: whole strings, or single bytes."""
    verb: ClassVar[str] = "copied"
    feeds_back: ClassVar[bool] = True
    """Whether the model can be let alone with a prompt, its own tokens fed back."""

    length: int

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or not 1 <= self.length <= _LONGEST:
            raise ConfigError(f"string length is {self.length!r}: it must be a whole number from 1 to {_LONGEST:,}")

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return ALPHABET_SIZES[self.alphabet]

    @property
    def capacity(self) -> int:
        """Positions that a whole sequence takes: BOS, L letters, SEP and L letters again."""
        return 2 * (self.length + 1)

    @property
    def has_source(self) -> bool:
        """Whether examples can be drawn here."""
        return True

    @abstractmethod
    def sample(self, rng: np.random.Generator, count: int, *, held_out: bool = False) -> Examples:
        """Draw examples; with `held_out` from what training never sees."""

    def draw(self, purpose: str, count: int, seed: int = 0, step: int = 0) -> Examples:
        """Examples for one purpose: the same for the same arguments, and never the training's for another purpose.

        Raises:
            InputError: more than fit into memory, or the examples' source is not here.
        """
        if count * (self.capacity + 1) > _MOST_TOKENS:
            raise InputError(
                f"{count:,} sequences of {self.describe()} are {count * (self.capacity + 1):,} tokens, more than "
                f"{_MOST_TOKENS:,}: ask for fewer sequences, or use a shorter `length`"
            )
        return self.sample(random_source(purpose, seed, step), count, held_out=purpose != "train")

    def unlike_training(self, prompt: str) -> str:
        """What sets the length of a prompt apart from those that were trained, in words; empty where nothing does.

        A model may do the task for it all the same; most do not.
        """
        return ""

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Fields that make a task what it is, and are written down; a text's content is not."""
        return tuple(field.name for field in dataclasses.fields(cls) if field.compare)

    def entries(self) -> dict[str, Any]:
        """The task as JSON values: its name, and its settings."""
        return {"name": self.name, **{name: getattr(self, name) for name in self.settings()}}

    def describe(self) -> str:
        """A few words for people."""
        return f"{self.name}, {self.length} letters"


def random_letters(rng: np.random.Generator, shape: tuple[int, ...]) -> IntArray:
    """Token ids of letters."""
    return rng.integers(EOS + 1, EOS + 1 + LETTERS, shape, dtype=np.int64)


def next_tokens(tokens: IntArray, counts: npt.NDArray[np.bool_]) -> Examples:
    """Examples from whole sequences [B, T + 1]; `counts` [B, T + 1] says which tokens should be known."""
    return Examples(tokens[:, :-1], np.where(counts[:, 1:], tokens[:, 1:], IGNORE))


def letters_text(text: str) -> str:
    """How many letters a text has, in words."""
    return "1 letter" if len(text) == 1 else f"{len(text):,} letters"
