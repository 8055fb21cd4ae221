"""Text of a choice, token by token, without its stop text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from causalrn.bundle.alphabet import BOS, EOS, SEP, Alphabet

_MARKERS = {BOS: "<bos>", SEP: "<sep>", EOS: "<eos>"}


@dataclass(frozen=True)
class Piece:
    """What has become certain of a choice.

    Attributes:
        texts: what each token adds.
        rest: what follows them at the end: one replacement character for one that has begun.
    """

    texts: tuple[str, ...]
    rest: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts) + self.rest


class ChoiceText:
    """Decodes what a choice generates; tokens that may turn out to be a stop are held back.

    Args:
        alphabet: None shows token ids, each with a blank behind it.
        stops: token ids that end the choice and are no part of its text.
        tail: bytes of a character that an earlier text has begun, and that this one goes on with.

    Attributes:
        tail: the same of this text, once it has ended.

    Example:
        >>> text = ChoiceText(Alphabet("letters"), ((4, 5),))
        >>> [text.take(token).text for token in (3, 4, 4, 5)], text.end(is_stopped=True).text
        (['a', '', 'b', ''], '')
    """

    def __init__(self, alphabet: Alphabet | None, stops: Sequence[tuple[int, ...]] = (), tail: bytes = b"") -> None:
        self._stream = None if alphabet is None else alphabet.text_stream(tail)
        self._stops = stops
        self._held: list[int] = []
        self.tail = b""

    def take(self, token: int) -> Piece:
        """What a token makes certain."""
        self._held.append(token)
        return Piece(self._decoded(len(self._held) - self._begun()))

    def end(self, *, is_stopped: bool, keeps_tail: bool = False) -> Piece:
        """What is left at the end, without the stop where one ended it.

        Args:
            keeps_tail: a begun character is no text yet, but :attr:`tail`.
        """
        whole = max((len(stop) for stop in self._stops if self._ends_with(stop)), default=0) if is_stopped else 0
        texts = self._decoded(len(self._held) - whole)
        if self._stream is None:
            return Piece(texts)
        if keeps_tail:
            self.tail = self._stream.tail
            return Piece(texts)
        return Piece(texts, self._stream.end())

    def _decoded(self, count: int) -> tuple[str, ...]:
        tokens, self._held = self._held[:count], self._held[count:]
        if self._stream is None:
            return tuple(f"{token} " for token in tokens)
        return tuple(self._stream.take(token) for token in tokens)

    def _ends_with(self, tokens: tuple[int, ...]) -> bool:
        return tuple(self._held[-len(tokens) :]) == tokens

    def _begun(self) -> int:
        """How many of the last tokens may belong to a stop."""
        lengths = (n for stop in self._stops for n in range(1, len(stop) + 1) if self._ends_with(stop[:n]))
        return max(lengths, default=0)


def token_text(alphabet: Alphabet | None, token: int) -> str:
    r"""One token as text, for lists of probabilities: a letter, a marker such as <eos>, or bytes:\xe9.

    Example:
        >>> token_text(Alphabet("letters"), 3), token_text(Alphabet("bytes"), 0xE9), token_text(None, 7)
        ('a', 'bytes:\\xe9', '7')
    """
    if alphabet is None:
        return str(token)
    if alphabet.name == "letters" and token in _MARKERS:
        return _MARKERS[token]
    if alphabet.name == "bytes" and token >= 0x80:
        return f"bytes:\\x{token:02x}"
    return alphabet.decode([token])
