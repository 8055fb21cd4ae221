"""The model configuration: which CausalRN this is. Needs no torch.

Letters used all over the toolkit: B batch, T time, V vocabulary, E embedding width, H hidden width,
N blocks, G heads, D = H / G head width, C capacity (maximum positions).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.errors import ConfigError

READOUTS = ("exact", "linear", "plain")
ACTIVATIONS = ("exp", "elu", "relu", "gelu")
NORMS = ("layer", "rms")
HEAD_SCALES = ("max", "none")
POSITIONS = ("learned", "none")

_CHOICES = {
    "readout": READOUTS,
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "head_scale": HEAD_SCALES,
    "positions": POSITIONS,
}


@dataclass(frozen=True)
class ModelConfig:
    """One CausalRN (arXiv 2406.16168), as its readout, sizes and options say.

    Attributes:
        vocabulary: V, number of token ids.
        embedding: E, width of the residual stream; at least 2.
        hidden: H, width of a, b and o in every block; at least 2 per head.
        blocks: N, number of blocks.
        capacity: C, number of learned positions; None exactly when ``positions`` is "none".
        readout: how position i reads positions j <= i: "exact", "linear" or "plain".
        activation: f's outer function; only "exp" gives linear and plain a state of constant size.
        heads: G; the exact readout normalizes pairs per head. H must be a multiple of it.
        norm: "layer" (LayerNorm without affine part) or "rms".
        post_norm: normalize the readout's output o before W3.
        head_scale: "max" divides o, per position and head, by its largest channel (the official Relation
            Network does); default "max" for exact with exp and post-norm, else "none".
        positions: "learned" or "none" (unbounded streams).
        bias_1, bias_2, bias_3, bias_head: which of W1, W2, W3 and the head have a bias.

    Raises:
        ConfigError: a value is unknown, out of range, or contradicts another one.
    """

    vocabulary: int
    embedding: int
    hidden: int
    blocks: int
    capacity: int | None
    readout: str = "exact"
    activation: str = "exp"
    heads: int = 1
    norm: str = "layer"
    post_norm: bool = True
    head_scale: str = ""
    positions: str = "learned"
    bias_1: bool = True
    bias_2: bool = False
    bias_3: bool = True
    bias_head: bool = False

    def __post_init__(self) -> None:
        if not self.head_scale:
            official = self.readout == "exact" and self.activation == "exp" and self.post_norm
            object.__setattr__(self, "head_scale", "max" if official else "none")
        self._check_choices()
        self._check_sizes()
        if self.head_scale == "max" and (self.readout, self.activation) != ("exact", "exp"):
            raise ConfigError(
                f"head_scale max belongs to the exact readout with exp, not to readout {self.readout} "
                f"with activation {self.activation}: use head_scale none"
            )

    def _check_choices(self) -> None:
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                raise ConfigError(f"{field} {value!r} is unknown: choose one of {', '.join(choices)}")

    def _check_sizes(self) -> None:
        least = {"vocabulary": 2, "embedding": 2, "hidden": 2, "blocks": 1, "heads": 1}
        for field, bound in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise ConfigError(f"{field} is {value!r}: it must be a whole number, at least {bound}")
        if self.hidden % self.heads:
            raise ConfigError(f"heads {self.heads} does not divide hidden {self.hidden}")
        if self.head_width < 2:
            raise ConfigError(f"hidden {self.hidden} over {self.heads} heads leaves a width below 2 to normalize")
        if (self.capacity is None) != (self.positions == "none"):
            raise ConfigError(
                f"capacity {self.capacity} and positions {self.positions!r} contradict each other: "
                "learned positions need a capacity, positions none must not have one"
            )
        if self.capacity is not None and (type(self.capacity) is not int or self.capacity < 1):
            raise ConfigError(f"capacity is {self.capacity}: it must be a whole number, at least 1")

    @property
    def head_width(self) -> int:
        """D = H / G, the width of one head."""
        return self.hidden // self.heads

    @property
    def state_kind(self) -> str:
        """What one block remembers: "pool" (a row per token), or constant in size "sum", "carry+sum" or "max+sum".

        A stream without end adds up so much that rounding shows: its sum is compensated, by a carry.
        """
        if self.activation != "exp" or self.readout == "exact":
            return "pool"
        if self.readout == "plain":
            return "max+sum"
        return "sum" if self.capacity is not None else "carry+sum"

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values, complete."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str = "the configuration") -> ModelConfig:
        """Read :meth:`to_json`'s form back; `source` is named in errors.

        Raises:
            ConfigError: a field is missing, unknown or has a wrong value.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: the model configuration is not a JSON object")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(fields))
        missing = sorted(n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in data)
        if unknown or missing:
            what = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
            raise ConfigError(f"{source}: {what} in the model configuration (written by another version?)")
        for name in ("post_norm", "bias_1", "bias_2", "bias_3", "bias_head"):
            if not isinstance(data.get(name, True), bool):
                raise ConfigError(f"{source}: {name} is {data[name]!r}: it must be true or false")
        try:
            return cls(**data)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"{source}: {error}") from None

    def describe(self) -> str:
        """One line for people, e.g. 'exact+exp, E=64 H=64, 4 blocks, vocabulary 29, capacity 34'."""
        extras = [f"{self.heads} heads"] * (self.heads > 1) + ["rms norm"] * (self.norm == "rms")
        extras += ["no post-norm"] * (not self.post_norm)
        capacity = "unbounded" if self.capacity is None else f"capacity {self.capacity}"
        return ", ".join(
            [
                f"{self.readout}+{self.activation}",
                f"E={self.embedding} H={self.hidden}",
                f"{self.blocks} blocks",
                *extras,
                f"vocabulary {self.vocabulary}",
                capacity,
            ]
        )


def parse_json_object(text: str, source: str) -> dict[str, Any]:
    """Parse a JSON object, naming `source` when it is none.

    Raises:
        ConfigError: the text is no JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}: not valid JSON ({error.msg} at line {error.lineno})") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{source}: not valid JSON (nested too deeply, or a number too long)") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a JSON object")
    return data
