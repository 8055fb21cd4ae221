"""Lookup: what followed a k-gram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from causalrn.bundle.alphabet import BOS, EOS, SEP
from causalrn.errors import ConfigError
from causalrn.training.tasks.base import LETTERS, Examples, IntArray, Task, letters_text, next_tokens, random_letters


@dataclass(frozen=True)
class LookupTask(Task):
    """Find a k-gram in a random string and repeat what followed it: BOS string SEP k-gram rest-of-the-string EOS.

    After Jelassi et al. 2024 (arXiv 2402.01032), n-gram lookup. The k-gram stands in the string once, and not at its
    very end.

    Attributes:
        key: k, letters of the k-gram.

    Raises:
        ConfigError: a key as long as the string, or so short that it would rarely stand in it only once.
    """

    name: ClassVar[str] = "lookup"
    verb: ClassVar[str] = "looked up"

    key: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.key, bool) or not isinstance(self.key, int) or not 1 <= self.key < self.length:
            raise ConfigError(
                f"key {self.key!r} and length {self.length} contradict each other: "
                "the key must be a whole number, at least 1 and shorter than the string"
            )
        if self.length * (1 - float(LETTERS) ** -self.key) ** self.length < 2:
            raise ConfigError(
                f"key {self.key} is too short for length {self.length}: hardly any {self.key}-gram would stand in a "
                "string only once; use a longer key, or longer strings"
            )

    def sample(self, rng: np.random.Generator, count: int, *, held_out: bool = False) -> Examples:
        """Strings are drawn anew until each has a k-gram to ask for."""
        letters, start = np.zeros((count, self.length), np.int64), np.full(count, -1)
        while (missing := np.flatnonzero(start < 0)).size:
            letters[missing] = random_letters(rng, (len(missing), self.length))
            start[missing] = self._choose_start(rng, letters[missing])
        place = np.arange(self.capacity + 1)[None]
        tokens = np.full((count, self.capacity + 1), EOS)
        tokens[:, 0] = BOS
        tokens[:, 1 : self.length + 1] = letters
        tokens[:, self.length + 1] = SEP
        index = place - 2 - self.length + start[:, None]  # into the string, behind SEP
        inside = (place > self.length + 1) & (index < self.length)
        tokens[inside] = np.take_along_axis(letters, index.clip(0, self.length - 1), 1)[inside]
        answer = (place > self.length + 1 + self.key) & (index <= self.length)
        return next_tokens(tokens, answer)

    def unlike_training(self, prompt: str) -> str:
        """Strings of one length were trained, each with a k-gram behind a blank."""
        text, _, key = prompt.partition(" ")
        if (len(text), len(key)) == (self.length, self.key):
            return ""
        asked = letters_text(text) + (f", a blank and {letters_text(key)}" if key else " and no blank")
        return f"a prompt of {asked}; trained on {self.length}, a blank and {self.key} of them"

    def _choose_start(self, rng: np.random.Generator, letters: IntArray) -> IntArray:
        """Where a k-gram begins that stands in its string once and has something behind it; -1 if there is none."""
        grams = np.lib.stride_tricks.sliding_window_view(letters, self.key, axis=1)  # [B, L - k + 1, k]
        chances = rng.random(grams.shape[:2])
        start = np.full(len(letters), -1)
        for row, (gram, chance) in enumerate(zip(grams, chances, strict=True)):
            _, first, counts = np.unique(gram, axis=0, return_index=True, return_counts=True)
            single = first[(counts == 1) & (first < len(gram) - 1)]
            if single.size:
                start[row] = single[chance[single].argmax()]
        return start

    def describe(self) -> str:
        """A few words for people."""
        return f"{self.name}, {self.key} of {self.length} letters"
