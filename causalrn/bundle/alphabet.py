"""Token alphabets: text to token ids and back. Needs no torch."""

from __future__ import annotations

import codecs
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from causalrn.errors import InputError

BOS, SEP, EOS = 0, 1, 2
_FIRST_LETTER = 3
_LETTERS = string.ascii_lowercase
_SEPARATOR = " "
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands for bytes that are no UTF-8."""


@dataclass(frozen=True)
class Alphabet:
    """A named token alphabet.

    "letters": BOS 0, SEP 1, EOS 2, a-z 3-28, as the paper's copying task has it. "bytes": UTF-8 bytes 0-255.

    Example:
        >>> Alphabet("letters").prompt("abc")
        [0, 3, 4, 5, 1]
        >>> Alphabet("letters").decode([3, 4, 5, 2])
        'abc'
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in ALPHABET_SIZES:
            raise InputError(f"alphabet {self.name!r} is unknown: choose one of {', '.join(ALPHABET_SIZES)}")

    @property
    def size(self) -> int:
        """Number of token ids."""
        return ALPHABET_SIZES[self.name]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids after which generation stops by itself."""
        return (EOS,) if self.name == "letters" else ()

    def encode(self, text: str) -> list[int]:
        """Token ids of the text alone, without markers; a blank among letters stands for SEP.

        Raises:
            InputError: a character that the alphabet does not have.
        """
        if self.name == "bytes":
            return list(text.encode(errors="surrogateescape"))  # bytes that are no UTF-8, as a shell gives them
        for index, character in enumerate(text):
            if character not in _LETTERS + _SEPARATOR:
                raise InputError(
                    f"character {character!r} at place {index + 1} of the text is not in the alphabet: "
                    "this model knows the letters a to z"
                )
        return [SEP if c == _SEPARATOR else _FIRST_LETTER + _LETTERS.index(c) for c in text]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt. Bytes stay as they are; letters get BOS before, and SEP after if they have none.

        So "abc" asks for a copy of abc, and "abcdef cd" for what followed cd in abcdef.

        Raises:
            InputError: a character that the alphabet does not have, or a blank where none can be.
        """
        ids = self.encode(text)
        if self.name == "bytes":
            return ids
        if SEP not in ids:
            return [BOS, *ids, SEP]
        if ids.count(SEP) > 1 or ids[0] == SEP or ids[-1] == SEP:
            raise InputError("a blank stands for SEP: write one, between a string and what is asked of it")
        return [BOS, *ids]

    def encode_at(self, text: str, position: int) -> list[int]:
        """Token ids of text that a state takes: a :meth:`prompt` at position 0, later appended as it is.

        Raises:
            InputError: as :meth:`prompt` and :meth:`encode`.
        """
        return self.encode(text) if position else self.prompt(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; markers are left out, bytes that are no UTF-8 are replaced."""
        if self.name == "bytes":
            return bytes(ids).decode(errors="replace")
        return "".join(_LETTERS[i - _FIRST_LETTER] for i in ids if i >= _FIRST_LETTER)

    def text_stream(self, tail: bytes = b"") -> TextStream:
        """Decodes token by token.

        Args:
            tail: where an earlier stream ended, see :attr:`TextStream.tail`.
        """
        return TextStream(self, tail)


class TextStream:
    """Text of tokens that come one by one: a character of several bytes comes with its last one.

    Example:
        >>> stream = Alphabet("bytes").text_stream()
        >>> [stream.take(token) for token in "né".encode()], stream.tail
        (['n', '', 'é'], b'')
    """

    def __init__(self, alphabet: Alphabet, tail: bytes) -> None:
        self._alphabet = alphabet if alphabet.name != "bytes" else None
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._utf8.decode(tail)

    def take(self, token: int) -> str:
        """What a token adds to the text."""
        if self._alphabet is not None:
            return self._alphabet.decode([token])
        return self._utf8.decode(bytes([token]))

    @property
    def tail(self) -> bytes:
        """Bytes of a character that is not whole yet."""
        return self._utf8.getstate()[0] if self._alphabet is None else b""

    def end(self) -> str:
        """What is left at the end: one replacement character where there is a tail."""
        return self._utf8.decode(b"", final=True)


ALPHABET_SIZES = {"letters": _FIRST_LETTER + len(_LETTERS), "bytes": 256}


def guess_alphabet(vocabulary: int) -> str | None:
    """The alphabet whose size this vocabulary has, or None: then only token ids go in and out."""
    return next((name for name, size in ALPHABET_SIZES.items() if size == vocabulary), None)


def parse_token_ids(values: Sequence[str]) -> list[int]:
    """Token ids from text such as "3 4 5" split at blanks, for models without an alphabet.

    Raises:
        InputError: something that is no whole number.
    """
    try:
        return [int(value) for value in values]
    except ValueError:
        raise InputError("this model has no alphabet: give the `prompt` as token ids, e.g. '0 3 4 1'") from None
