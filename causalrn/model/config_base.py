"""What the configurations of all models share, and the values that their fields may have. Needs no torch."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from causalrn.bundle.json_values import from_json, to_json
from causalrn.errors import ConfigError

READOUTS = ("exact", "linear", "plain")
ACTIVATIONS = ("exp", "elu", "relu", "gelu")
NORMS = ("layer", "rms")
HEAD_SCALES = ("max", "none")
POSITIONS = ("learned", "none")
ATTENTIONS = ("softmax", "linear")
_MOST_BLOCKS, _LARGEST = 10_000, 1 << 31
"""More than any model has: what a file says of sizes is checked before anything is made of these sizes."""

_CHOICES = {
    "readout": READOUTS,
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "head_scale": HEAD_SCALES,
    "positions": POSITIONS,
    "attention": ATTENTIONS,
}


@dataclass(frozen=True)
class ModelConfig(ABC):
    """What all models share: the frame around their blocks. The kinds are in config.py.

    Attributes:
        vocabulary: V, number of token ids.
        embedding: E, width of the residual stream; at least 2.
        hidden: H, width inside every block.
        blocks: N, number of blocks.
        capacity: C, number of learned positions; None exactly when ``positions`` is "none".
        heads: G.
        norm: "layer" (LayerNorm without affine part) or "rms".
        positions: "learned" or "none" (unbounded streams).
        bias_head: whether the head has a bias.
        norm_eps: what every norm adds to the standard deviation (or root mean square) that it divides by: beside the
            root, not under it, as `normalization_eps` of the official code.

    Raises:
        ConfigError: a value is unknown, out of range, or contradicts another one.
    """

    architecture: ClassVar[str] = ""

    vocabulary: int
    embedding: int
    hidden: int
    blocks: int
    capacity: int | None
    heads: int = 1
    norm: str = "layer"
    positions: str = "learned"
    bias_head: bool = False
    norm_eps: float = 0.0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sizes()
        self._check_norm_eps()
        self._check_heads()

    def _check_choices(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), _CHOICES.get(field.name)
            if choices is not None and value not in choices:
                raise ConfigError(f"{field.name} {value!r} is unknown: choose one of {', '.join(choices)}")

    def _check_sizes(self) -> None:
        least = {"vocabulary": 2, "embedding": 2, "hidden": 2, "blocks": 1, "heads": 1}
        for field, bound in least.items():
            value, most = getattr(self, field), _MOST_BLOCKS if field == "blocks" else _LARGEST
            if not isinstance(value, int) or isinstance(value, bool) or not bound <= value <= most:
                raise ConfigError(f"{field} is {value!r}: it must be a whole number from {bound} to {most:,}")
        if (self.capacity is None) != (self.positions == "none"):
            raise ConfigError(
                f"capacity {self.capacity} and positions {self.positions!r} contradict each other: "
                "learned positions need a capacity, positions none must not have one"
            )
        if self.capacity is not None and (type(self.capacity) is not int or not 1 <= self.capacity <= _LARGEST):
            raise ConfigError(f"capacity is {self.capacity}: it must be a whole number from 1 to {_LARGEST:,}")

    def _check_norm_eps(self) -> None:
        value = self.norm_eps
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"norm_eps is {value!r}: it must be a number from 0 to 1")
        object.__setattr__(self, "norm_eps", float(value))

    @abstractmethod
    def _check_heads(self) -> None:
        """Refuse heads, and options of this kind of model, that do not go with the rest."""

    @property
    @abstractmethod
    def head_width(self) -> int:
        """D, the width of one head."""

    @property
    @abstractmethod
    def state_kind(self) -> str:
        """What one block remembers: "pool" (a row per token), or the roles of its tensors of constant size.

        Those are "sum", "carry+sum" or "max+sum". A stream without end adds up so much that rounding shows: its sum is
        compensated, by a carry.
        """

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one row of a block's pool, or of each of its tensors of constant size, for one sequence."""

    @property
    def bounds_stream(self) -> bool:
        """Whether the weights bound the residual stream, whatever the tokens."""
        return True

    @property
    @abstractmethod
    def pair_width(self) -> int:
        """Numbers that a prefill holds for every pair of a new position and a row of the pool."""

    def entries(self) -> dict[str, Any]:
        """The configuration as JSON values, complete; but an eps of 0 is not written, as before there was one."""
        entries = {"architecture": self.architecture, **to_json(self)}
        if not self.norm_eps:
            del entries["norm_eps"]
        return entries

    @staticmethod
    def from_entries(data: Any, source: str = "the configuration") -> ModelConfig:
        """Read :meth:`entries` back; `source` is named in errors.

        Raises:
            ConfigError: a field is missing, unknown or has a wrong value.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: the model configuration is not a JSON object")
        values = dict(data)
        architecture = values.pop("architecture", "causalrn")
        kind = {kind.architecture: kind for kind in ModelConfig.__subclasses__()}.get(str(architecture))
        if kind is None:
            raise ConfigError(f"{source}: architecture {architecture!r} is unknown (written by another version?)")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise ConfigError(f"{source}: unknown {', '.join(unknown)} in the model configuration (another version?)")
        try:
            return from_json(values, kind, "model configuration")
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @property
    @abstractmethod
    def kind(self) -> str:
        """What sets this model apart from its relatives, e.g. "exact+exp" or "linear transformer"."""

    def _extras(self) -> list[str]:
        """What is not as usual, for people."""
        extras = [f"{self.heads} heads"] * (self.heads > 1) + ["rms norm"] * (self.norm == "rms")
        return extras + [f"norm eps {self.norm_eps:g}"] * (self.norm_eps > 0)

    def describe(self) -> str:
        """One line for people, e.g. 'exact+exp, E=64 H=64, 4 blocks, vocabulary 29, capacity 34'."""
        capacity = "unbounded" if self.capacity is None else f"capacity {self.capacity}"
        sizes = f"E={self.embedding} H={self.hidden}"
        parts = [self.kind, sizes, f"{self.blocks} blocks", *self._extras(), f"vocabulary {self.vocabulary}", capacity]
        return ", ".join(parts)
