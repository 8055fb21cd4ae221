"""How tokens are chosen, and when generation stops."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from causalrn.errors import InputError


@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen and when generation stops.

    Attributes:
        max_new_tokens: most tokens per row; None goes on to the capacity (an error without one).
        temperature: 0 is greedy; else logits are divided by it.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens that together reach this probability; 1 keeps all.
        seed: of the random numbers. A draw depends on seed, row and position only, so a run that was interrupted and
            resumed, or another batch around the same row, draws the same.
        stop: stop a row after its generated text ends with this.
        stop_ids: stop a row after one of these tokens; None takes the alphabet's.

    Raises:
        InputError: a value out of range.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: str | None = None
    stop_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"max new tokens is {self.max_new_tokens}: it must be at least 1")
        if not np.isfinite(self.temperature) or self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}: it must be finite, 0 (greedy) or more")
        if self.top_k < 0:
            raise InputError(f"top-k is {self.top_k}: it must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}: it must be above 0 and at most 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must be 0 or more")
        if self.stop == "":
            raise InputError("the stop text is empty")

    def _check_types(self) -> None:
        whole = {"max_new_tokens": self.max_new_tokens, "top_k": self.top_k, "seed": self.seed}
        for name, value in whole.items():
            if value is not None and (not isinstance(value, int | np.integer) or isinstance(value, bool)):
                raise InputError(f"`{name}` is {value!r}: it must be a whole number")
        for name, number in {"temperature": self.temperature, "top_p": self.top_p}.items():
            if not isinstance(number, int | float | np.floating | np.integer) or isinstance(number, bool):
                raise InputError(f"`{name}` is {number!r}: it must be a number")
        if self.stop is not None and not isinstance(self.stop, str):
            raise InputError(f"`stop` is {self.stop!r}: it must be text")


class GenerationSettings(TypedDict, total=False):
    """Fields of :class:`GenerationOptions` as keyword arguments."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: str | None
    stop_ids: tuple[int, ...] | None


def choose_options(options: GenerationOptions | None, settings: GenerationSettings) -> GenerationOptions:
    """Options from an object, with some of its fields set anew.

    Raises:
        InputError: a field that there is not, or a value out of range.
    """
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(GenerationOptions)})
    if unknown:
        raise InputError(
            f"generation has no setting {unknown[0]}: choose from {', '.join(GenerationSettings.__annotations__)}"
        )
    return dataclasses.replace(options or GenerationOptions(), **settings)
