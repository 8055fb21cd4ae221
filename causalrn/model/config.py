"""The model configuration: which model this is, a CausalRN or one of its baselines. Needs no torch.

Letters used all over the toolkit: B batch, T time, V vocabulary, E embedding width, H hidden width,
N blocks, G heads, D head width, C capacity (maximum positions).
"""

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
    """What all models share: the frame around their blocks. Use :class:`CausalRNConfig` or :class:`TransformerConfig`.

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

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sizes()
        self._check_heads()

    def _check_choices(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), _CHOICES.get(field.name)
            if choices is not None and value not in choices:
                raise ConfigError(f"{field.name} {value!r} is unknown: choose one of {', '.join(choices)}")

    def _check_sizes(self) -> None:
        least = {"vocabulary": 2, "embedding": 2, "hidden": 2, "blocks": 1, "heads": 1}
        for field, bound in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise ConfigError(f"{field} is {value!r}: it must be a whole number, at least {bound}")
        if (self.capacity is None) != (self.positions == "none"):
            raise ConfigError(
                f"capacity {self.capacity} and positions {self.positions!r} contradict each other: "
                "learned positions need a capacity, positions none must not have one"
            )
        if self.capacity is not None and (type(self.capacity) is not int or self.capacity < 1):
            raise ConfigError(f"capacity is {self.capacity}: it must be a whole number, at least 1")

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
        """The configuration as JSON values, complete."""
        return {"architecture": self.architecture, **to_json(self)}

    @staticmethod
    def from_entries(data: Any, source: str = "the configuration") -> ModelConfig:
        """Read :meth:`entries` back; `source` is named in errors.

        Raises:
            ConfigError: a field is missing, unknown or has a wrong value.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: the model configuration is not a JSON object")
        values = dict(data)
        architecture = values.pop("architecture", CausalRNConfig.architecture)
        kind = {kind.architecture: kind for kind in (CausalRNConfig, TransformerConfig)}.get(str(architecture))
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
        return [f"{self.heads} heads"] * (self.heads > 1) + ["rms norm"] * (self.norm == "rms")

    def describe(self) -> str:
        """One line for people, e.g. 'exact+exp, E=64 H=64, 4 blocks, vocabulary 29, capacity 34'."""
        capacity = "unbounded" if self.capacity is None else f"capacity {self.capacity}"
        sizes = f"E={self.embedding} H={self.hidden}"
        parts = [self.kind, sizes, f"{self.blocks} blocks", *self._extras(), f"vocabulary {self.vocabulary}", capacity]
        return ", ".join(parts)


@dataclass(frozen=True)
class CausalRNConfig(ModelConfig):
    """One CausalRN (arXiv 2406.16168), as its readout, sizes and options say.

    Attributes:
        hidden: H, width of a, b and o in every block; at least 2 per head.
        readout: how position i reads positions j <= i: "exact", "linear" or "plain".
        activation: f's outer function; only "exp" gives linear and plain a state of constant size.
        heads: G, for the exact readout only, which normalizes pairs per head. H must be a multiple of it.
        post_norm: normalize the readout's output o before W3.
        head_scale: "max" divides o, per position and head, by its largest channel (the official Relation
            Network does); default "max" for exact with exp and post-norm, else "none".
        bias_1: whether W1 has a bias; bias_2: W2; bias_3: W3.
    """

    architecture: ClassVar[str] = "causalrn"

    readout: str = "exact"
    activation: str = "exp"
    post_norm: bool = True
    head_scale: str = ""
    bias_1: bool = True
    bias_2: bool = False
    bias_3: bool = True

    def __post_init__(self) -> None:
        if not self.head_scale:
            official = self.readout == "exact" and self.activation == "exp" and self.post_norm
            object.__setattr__(self, "head_scale", "max" if official else "none")
        super().__post_init__()

    def _check_heads(self) -> None:
        if self.hidden % self.heads:
            raise ConfigError(f"heads {self.heads} does not divide hidden {self.hidden}")
        if self.head_width < 2:
            raise ConfigError(f"hidden {self.hidden} over {self.heads} heads leaves a width below 2 to normalize")
        if self.heads > 1 and self.readout != "exact":
            raise ConfigError(
                f"heads {self.heads} and readout {self.readout} contradict each other: "
                "only the exact readout has heads, the others would ignore them"
            )
        if self.head_scale == "max" and (self.readout, self.activation) != ("exact", "exp"):
            raise ConfigError(
                f"head_scale max belongs to the exact readout with exp, not to readout {self.readout} "
                f"with activation {self.activation}: use head_scale none"
            )

    @property
    def head_width(self) -> int:
        """D = H / G."""
        return self.hidden // self.heads

    @property
    def state_kind(self) -> str:
        """A pool, unless the algebra allows a state of constant size: linear and plain with exp."""
        if self.activation != "exp" or self.readout == "exact":
            return "pool"
        if self.readout == "plain":
            return "max+sum"
        return "sum" if self.capacity is not None else "carry+sum"

    @property
    def state_shape(self) -> tuple[int, ...]:
        """[H]: a row of b, or sums over such rows."""
        return (self.hidden,)

    @property
    def bounds_stream(self) -> bool:
        """Only with post-norm: without it exp may drive the stream anywhere."""
        return self.post_norm

    @property
    def pair_width(self) -> int:
        """H: every channel of a pair is activated by itself."""
        return self.hidden

    @property
    def kind(self) -> str:
        """Readout and activation."""
        return f"{self.readout}+{self.activation}"

    def _extras(self) -> list[str]:
        return super()._extras() + ["no post-norm"] * (not self.post_norm)


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The paper's baselines: a pre-norm Transformer, and the Linear Transformer (arXiv 2006.16236) with elu + 1.

    Attention has no biases, the MLP (GELU) has them; norms are LN0, as in CausalRN.

    Attributes:
        hidden: H, width of the MLP; 4 E in the paper.
        heads: G; E must be a multiple of it.
        attention: "softmax" (a KV cache as pool) or "linear" (a state of constant size).
    """

    architecture: ClassVar[str] = "transformer"

    attention: str = "softmax"

    def _check_heads(self) -> None:
        if self.embedding % self.heads:
            raise ConfigError(f"heads {self.heads} does not divide embedding {self.embedding}")

    @property
    def head_width(self) -> int:
        """D = E / G."""
        return self.embedding // self.heads

    @property
    def state_kind(self) -> str:
        """A pool of keys and values, or their summed products."""
        if self.attention == "softmax":
            return "pool"
        return "sum" if self.capacity is not None else "carry+sum"

    @property
    def state_shape(self) -> tuple[int, ...]:
        """[2E]: a key and a value; or [G, D, D + 1]: keys times values, and in the last column keys times one."""
        if self.attention == "softmax":
            return (2 * self.embedding,)
        return (self.heads, self.head_width, self.head_width + 1)

    @property
    def pair_width(self) -> int:
        """G: a pair is one score per head."""
        return self.heads

    @property
    def kind(self) -> str:
        """Which of the two."""
        return "transformer" if self.attention == "softmax" else "linear transformer"
