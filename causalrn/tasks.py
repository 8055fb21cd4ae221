"""The copying task: BOS, a random string, SEP, and the string again, then EOS. Needs no torch.

The paper's task (arXiv 2406.16168, section 4): strings of a fixed length L over 26 letters; a model that can copy
exactly has to keep every letter. With L letters a sequence takes C = 2 (L + 1) positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.alphabet import ALPHABET_SIZES, BOS, EOS, SEP
from causalrn.errors import ConfigError

IntArray = npt.NDArray[np.int64]

IGNORE = -100
"""Target of positions that do not count: what stands before the copy is random and cannot be predicted."""


PURPOSES = ("train", "evaluate", "verify", "convert", "demo")


def random_source(purpose: str, seed: int, step: int = 0) -> np.random.Generator:
    """Random numbers for one purpose: strings that a model is judged by are never those it was trained on.

    Args:
        purpose: one of :data:`PURPOSES`; the first key of the stream, so that no two purposes share one.
        step: a further key, for streams that change from step to step.
    """
    return np.random.default_rng([1 + PURPOSES.index(purpose), seed, step])


@dataclass(frozen=True)
class CopyTask:
    """Copy a random string of `length` letters.

    Example:
        >>> task = CopyTask(length=2)
        >>> task.inputs(np.array([[3, 4]]))
        array([[0, 3, 4, 1, 3, 4]])
        >>> task.targets(np.array([[3, 4]]))
        array([[-100, -100, -100,    3,    4,    2]])
    """

    length: int
    name: str = "copy"

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ConfigError(f"string length is {self.length!r}: it must be a whole number, at least 1")

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return ALPHABET_SIZES["letters"]

    @property
    def capacity(self) -> int:
        """Positions that a whole sequence takes: BOS, L letters, SEP and L letters again."""
        return 2 * (self.length + 1)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Random strings, int64 [count, L]."""
        return rng.integers(EOS + 1, self.vocabulary, (count, self.length), dtype=np.int64)

    def prompts(self, strings: IntArray) -> IntArray:
        """BOS string SEP, int64 [B, L + 2]."""
        count = len(strings)
        return np.concatenate([np.full((count, 1), BOS), strings, np.full((count, 1), SEP)], axis=1)

    def answers(self, strings: IntArray) -> IntArray:
        """What has to be generated: string EOS, int64 [B, L + 1]."""
        return np.concatenate([strings, np.full((len(strings), 1), EOS)], axis=1)

    def inputs(self, strings: IntArray) -> IntArray:
        """Teacher-forced input: BOS string SEP string, int64 [B, C]."""
        return np.concatenate([self.prompts(strings), strings], axis=1)

    def targets(self, strings: IntArray) -> IntArray:
        """Next token at every position of :meth:`inputs`, :data:`IGNORE` before the copy, int64 [B, C]."""
        ignored = np.full((len(strings), self.length + 1), IGNORE)
        return np.concatenate([ignored, self.answers(strings)], axis=1)

    def to_json(self) -> dict[str, Any]:
        """The task as JSON values."""
        return {"name": self.name, "length": self.length}


def task_from_json(data: Mapping[str, Any] | None) -> CopyTask | None:
    """Read :meth:`CopyTask.to_json`'s form back; None stands for no task.

    Raises:
        ConfigError: a task that this version does not know.
    """
    if data is None:
        return None
    if not isinstance(data, Mapping) or data.get("name") != "copy":
        raise ConfigError(f"task {data!r} is unknown: this version knows copy")
    return CopyTask(data.get("length", 0))
