"""What the configurations of all models share, and the values that their fields may have. Needs no torch."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
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
_MOST_BLOCKS, LARGEST = 10_000, 1 << 31
"""More than any model has: what a file says of sizes is checked before anything is made of these sizes."""

_CHOICES = {
    "readout": READOUTS,
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "head_scale": HEAD_SCALES,
    "positions": POSITIONS,
    "attention": ATTENTIONS,
}


class Configuration(ABC):
    """What is known of any model that a bundle may hold: a :class:`ModelConfig`, or a model that users bring.

    Attributes:
        architecture: how files name the kind.
        vocabulary: V, number of token ids.
        capacity: C, most positions; None without a bound.
    """

    architecture: ClassVar[str] = ""

    vocabulary: int
    capacity: int | None

    @property
    @abstractmethod
    def pair_width(self) -> int:
        """Numbers that a prefill holds for every pair of a new position and a row of the pool; 0 where not known."""

    @property
    @abstractmethod
    def streams(self) -> int:
        """How many values of the residual stream sessions may show: N + 1; 0 where there is none to be shown."""

    @property
    @abstractmethod
    def stream_width(self) -> int:
        """E, width of these values; 0 where there is none to be shown."""

    @property
    @abstractmethod
    def hidden_values(self) -> int:
        """Values of hidden layers that a token takes, or about so many: what verifying long rows costs."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""

    def entries(self) -> dict[str, Any]:
        """The configuration as JSON values, complete."""
        return {"architecture": self.architecture, **to_json(self)}

    @staticmethod
    def from_entries(data: Any, source: str = "the configuration") -> Configuration:
        """Read :meth:`entries` back; `source` is named in errors.

        Raises:
            ConfigError: a field is missing, unknown or has a wrong value.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: the model configuration is not a JSON object")
        values = dict(data)
        architecture = values.pop("architecture", "causalrn")
        kind = {kind.architecture: kind for kind in _kinds(Configuration)}.get(str(architecture))
        if kind is None:
            raise ConfigError(f"{source}: architecture {architecture!r} is unknown (written by another version?)")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise ConfigError(f"{source}: unknown {', '.join(unknown)} in the model configuration (another version?)")
        try:
            config: Configuration = from_json(values, kind, "model configuration")
            return config
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


def _kinds(base: type[Any]) -> Iterator[type[Any]]:
    """The configurations that files may hold: those with a name."""
    for kind in base.__subclasses__():
        if kind.architecture:
            yield kind
        yield from _kinds(kind)


def check_size(field: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number from `least` to `most`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{field} is {value!r}: it must be a whole number from {least} to {most:,}")


@dataclass(frozen=True)
class ModelConfig(Configuration):
    """What CausalRNs and their baselines share: the frame around their blocks. The kinds are in config.py.

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
            check_size(field, getattr(self, field), bound, _MOST_BLOCKS if field == "blocks" else LARGEST)
        if (self.capacity is None) != (self.positions == "none"):
            raise ConfigError(
                f"capacity {self.capacity} and positions {self.positions!r} contradict each other: "
                "learned positions need a capacity, positions none must not have one"
            )
        if self.capacity is not None and (type(self.capacity) is not int or not 1 <= self.capacity <= LARGEST):
            raise ConfigError(f"capacity is {self.capacity}: it must be a whole number from 1 to {LARGEST:,}")

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
    def streams(self) -> int:
        """N + 1: what each block reads, and what the head reads."""
        return self.blocks + 1

    @property
    def stream_width(self) -> int:
        """E."""
        return self.embedding

    @property
    def hidden_values(self) -> int:
        """N H."""
        return self.blocks * self.hidden

    def entries(self) -> dict[str, Any]:
        """The configuration as JSON values, complete; but an eps of 0 is not written, as before there was one."""
        entries = super().entries()
        if not self.norm_eps:
            del entries["norm_eps"]
        return entries

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
