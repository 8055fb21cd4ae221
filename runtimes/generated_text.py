"""What generated tokens add to the texts of rows, across calls: a begun character waits for its other bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from causalrn.bundle.alphabet import Alphabet
from causalrn.runtimes.snapshot import IntArray


class GeneratedTexts:
    """The texts of rows, token by token.

    Args:
        alphabet: None shows token ids.
        batch: number of rows.
        tails: bytes of begun characters that earlier calls have left, per row, or ().
        goes_on: whether what is generated follows them; after a prompt they are never completed.
    """

    def __init__(self, alphabet: Alphabet | None, batch: int, tails: tuple[bytes, ...], *, goes_on: bool) -> None:
        begun = tails or (b"",) * batch
        self._streams = [alphabet.text_stream(tail) for tail in begun] if alphabet is not None else []
        self._before = [""] * batch if goes_on or alphabet is None else [stream.end() for stream in self._streams]

    def add(self, tokens: IntArray, active: npt.NDArray[np.bool_], ended: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        """Text of active rows [B]; one that has ended shows what is left of it, too."""
        texts, self._before = self._before, [""] * len(tokens)
        for row, token in enumerate(tokens.tolist()):
            if active[row]:
                texts[row] += self._streams[row].take(token) if self._streams else f"{token} "
            if ended[row] and self._streams:
                texts[row] += self._streams[row].end()
        return tuple(texts)

    @property
    def tails(self) -> tuple[bytes, ...]:
        """Bytes of begun characters per row; () where no row has one."""
        tails = tuple(stream.tail for stream in self._streams)
        return tails if any(tails) else ()
