"""Text: the bytes of a file that the user names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from causalrn.bundle.disk.reading import read_input
from causalrn.errors import InputError
from causalrn.training.tasks.base import Examples, Task, next_tokens

_HELD_OUT = 0.1
_REMEDY = "name a file with text"


@dataclass(frozen=True)
class Corpus:
    """A file whose bytes are to be predicted; its last tenth is never trained on.

    Attributes:
        path: absolute.
        sha256: of the content.
    """

    path: Path
    sha256: str
    data: npt.NDArray[np.uint8] = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Read a file into memory.

        Raises:
            InputError: no such file, something else, or nothing in it.
        """
        data = np.frombuffer(read_input(path, _REMEDY), np.uint8)
        if not data.size:
            raise InputError(f"{path}: is empty: {_REMEDY}")
        return cls(path.absolute(), hashlib.sha256(data.data).hexdigest(), data)

    def part(self, *, held_out: bool) -> npt.NDArray[np.uint8]:
        """The first nine tenths, or the last one."""
        cut = len(self.data) - int(_HELD_OUT * len(self.data))
        return self.data[cut:] if held_out else self.data[:cut]


@dataclass(frozen=True)
class TextTask(Task):
    """Predict every next byte of a text, in windows of `length` bytes.

    Attributes:
        corpus: the text; a model's card and bundles do not hold it, so there it is None.
    """

    name: ClassVar[str] = "text"
    alphabet: ClassVar[str] = "bytes"
    unit: ClassVar[str] = "bytes"
    verb: ClassVar[str] = "predicted"
    feeds_back: ClassVar[bool] = False

    corpus: Corpus | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corpus is None:
            return
        for held_out, what in ((False, "training"), (True, "evaluation")):
            size = len(self.corpus.part(held_out=held_out))
            if size <= self.length:
                raise InputError(
                    f"{self.corpus.path}: {size} bytes for {what} are too few for length {self.length}: "
                    "use a longer text, or a smaller `length`"
                )

    @property
    def capacity(self) -> int:
        """Positions of a window."""
        return self.length

    @property
    def has_source(self) -> bool:
        """Whether the text is here."""
        return self.corpus is not None

    def sample(self, rng: np.random.Generator, count: int, *, held_out: bool = False) -> Examples:
        """Windows from random places.

        Raises:
            InputError: the text is not here.
        """
        if self.corpus is None:
            raise InputError("the text that this model was trained on is not here: name a file with `text`")
        data = self.corpus.part(held_out=held_out)
        starts = rng.integers(0, len(data) - self.length, count)
        tokens = data[starts[:, None] + np.arange(self.length + 1)].astype(np.int64)
        return next_tokens(tokens, np.ones(tokens.shape, bool))

    def describe(self) -> str:
        """A few words for people."""
        return f"{self.name}, windows of {self.length} bytes"
