"""A line of JSON in, a request; what became of it, a line of JSON out."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
import numpy as np

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.disk.reading import check_values
from causalrn.bundle.json_values import parse_json_line
from causalrn.errors import ConfigError, InputError
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.serving.requests import Request, stop_sequences

MOST_LINE_BYTES = 16 << 20
"""A longer line is an error of its own."""

Id = msgspec.Raw | msgspec.UnsetType
"""Any JSON value as it is written, or none."""
_Whole = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""As numpy has them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, by number from 0 on; `content` is None where it is longer than a line may be."""

    index: int
    content: bytes | None


class Prompt(msgspec.Struct, forbid_unknown_fields=True):
    """What a line asks for; what it leaves out is as the settings say.

    `id` may be any JSON value, and comes back as it is written.
    """

    id: Id = msgspec.UNSET
    prompt: str | None = None
    tokens: list[_Whole] | None = None
    max_tokens: _Whole | None = None
    temperature: float | None = None
    top_k: _Whole | None = None
    top_p: float | None = None
    seed: _Whole | None = None
    stop: str | list[str] | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """A line that is written: `text`, `tokens` and `finish_reason`, or `error`.

    Attributes:
        text: None where the model has no alphabet.
    """

    index: int
    id: Id = msgspec.UNSET
    text: str | msgspec.UnsetType | None = msgspec.UNSET
    tokens: list[int] | msgspec.UnsetType = msgspec.UNSET
    finish_reason: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET

    def encode(self) -> bytes:
        """The line, its end included."""
        return msgspec.json.encode(self) + b"\n"


class _Named(msgspec.Struct):
    """Of a line that cannot be read in full, what can be told."""

    id: Id = msgspec.UNSET


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What holds for lines that do not say it.

    Attributes:
        options: how tokens are chosen and how many.
        stops: texts that end a line.
    """

    options: GenerationOptions = dataclasses.field(default_factory=GenerationOptions)
    stops: tuple[str, ...] = ()


def read_prompt(content: bytes | None) -> Prompt:
    """A line as what it asks for.

    Raises:
        InputError: it is no such thing.
    """
    if content is None:
        raise InputError(f"the line is longer than {MOST_LINE_BYTES:,} bytes")
    if not content.strip():
        raise InputError("the line is empty")
    try:
        content.decode()
        check_values(content)
        return parse_json_line(content, Prompt)
    except UnicodeDecodeError as fault:
        raise InputError(f"the line is no UTF-8 (byte {fault.start + 1})") from None
    except (ConfigError, ValueError) as fault:
        raise InputError(str(fault)) from None


def compact(value: Id) -> Id:
    """An id by itself: without the line that it is a part of, and without line ends."""
    return value if value is msgspec.UNSET else msgspec.Raw(msgspec.json.format(bytes(value), indent=-1))


def line_id(content: bytes | None) -> Id:
    """The id of a line that cannot run; unset where there is none, or none can be told."""
    try:
        if content is None or not content.decode():
            return msgspec.UNSET
        return compact(parse_json_line(content, _Named).id)
    except (ConfigError, UnicodeDecodeError):
        return msgspec.UNSET


def request_of(
    prompt: Prompt, index: int, defaults: Defaults, alphabet: Alphabet | None, *, position: int = 0
) -> Request:
    """The request of line number `index`.

    A line with a seed draws as a lone run with that seed does; the others draw from the settings' seed, each as
    another row of one batch: the same prompt twice gives two answers.

    Args:
        position: where it begins: from a state, text is appended as it is, and there may be none.

    Raises:
        InputError: a prompt that the alphabet cannot spell, or a setting out of range.
    """
    asked = {
        "max_new_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "top_k": prompt.top_k,
        "top_p": prompt.top_p,
        "seed": prompt.seed,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return Request(
        tokens=np.array(_token_ids(prompt, alphabet, position), np.int64),
        options=dataclasses.replace(defaults.options, **given),
        stops=stop_sequences(alphabet, defaults.stops if prompt.stop is None else prompt.stop),
        first_row=index if prompt.seed is None else 0,
    )


def _token_ids(prompt: Prompt, alphabet: Alphabet | None, position: int) -> list[int]:
    if position and prompt.prompt is None and prompt.tokens is None:
        return []
    if (prompt.prompt is None) == (prompt.tokens is None):
        raise InputError("give `prompt` or `tokens`, and not both")
    if prompt.tokens is not None:
        if not prompt.tokens:
            raise InputError("`tokens` is empty: give at least one")
        return prompt.tokens
    if alphabet is None:
        raise InputError("this model has no alphabet: give `tokens`, not `prompt`")
    return alphabet.encode_at(prompt.prompt or "", position)
