"""Copying: strings of one length, as in the paper, or of mixed lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from causalrn.bundle.alphabet import BOS, EOS, SEP
from causalrn.training.tasks.base import Examples, IntArray, Task, letters_text, next_tokens, random_letters


@dataclass(frozen=True)
class CopyTask(Task):
    """Copy a random string of `length` letters: BOS string SEP string EOS.

    The paper's task (arXiv 2406.16168, section 4): a model that can copy exactly has to keep every letter.

    Example:
        >>> CopyTask(length=2).examples(np.array([[3, 4]]))
        Examples(inputs=array([[0, 3, 4, 1, 3, 4]]), targets=array([[-100, -100, -100,    3,    4,    2]]))
    """

    name: ClassVar[str] = "copy"

    @classmethod
    def length_for(cls, capacity: int) -> int:
        """Letters of the strings that a model with so many positions was made for."""
        return capacity // 2 - 1

    def unlike_training(self, prompt: str) -> str:
        """Strings of one length alone were trained."""
        return "" if len(prompt) == self.length else f"a prompt of {letters_text(prompt)}; trained on {self.length}"

    def examples(self, strings: IntArray) -> Examples:
        """What copying these strings [B, L] looks like."""
        begin, separator, end = (np.full((len(strings), 1), token) for token in (BOS, SEP, EOS))
        tokens = np.concatenate([begin, strings, separator, strings, end], axis=1)
        return next_tokens(tokens, np.broadcast_to(np.arange(tokens.shape[1]) > self.length + 1, tokens.shape))

    def sample(self, rng: np.random.Generator, count: int, *, held_out: bool = False) -> Examples:
        """Random strings: there are so many that none is seen twice."""
        return self.examples(random_letters(rng, (count, self.length)))


@dataclass(frozen=True)
class CopyMixedTask(Task):
    """Copy random strings of 1 to `length` letters, every length as often; shorter ones are padded with EOS."""

    name: ClassVar[str] = "copy-mixed"

    def sample(self, rng: np.random.Generator, count: int, *, held_out: bool = False) -> Examples:
        """BOS string SEP string EOS, then EOS to the end."""
        length = rng.integers(1, self.length + 1, (count, 1))
        letters = random_letters(rng, (count, self.length))
        place = np.arange(self.capacity + 1)[None]
        tokens = np.full((count, self.capacity + 1), EOS)
        tokens[:, 0] = BOS
        first, second = (place - 1, place - 2 - length)  # index into the string, in each of its two copies
        for index in (first, second):
            inside = (index >= 0) & (index < length)
            source = np.broadcast_to(index.clip(0, self.length - 1), inside.shape)
            tokens[inside] = np.take_along_axis(letters, source, 1)[inside]
        tokens[np.arange(count), length[:, 0] + 1] = SEP
        return next_tokens(tokens, (place > length + 1) & (place <= 2 * length + 2))

    def unlike_training(self, prompt: str) -> str:
        """Strings of up to a length were trained."""
        is_trained = 1 <= len(prompt) <= self.length
        return "" if is_trained else f"a prompt of {letters_text(prompt)}; trained on 1 to {self.length}"

    def describe(self) -> str:
        """A few words for people."""
        return f"{self.name}, 1 to {self.length} letters"
