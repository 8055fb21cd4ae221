"""The model configuration: which model this is, a CausalRN, one of its baselines, or a user's own. Needs no torch.

Letters used all over the toolkit: B batch, T time, V vocabulary, E embedding width, H hidden width,
N blocks, G heads, D head width, C capacity (maximum positions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from causalrn.errors import ConfigError
from causalrn.model.config_base import (
    ACTIVATIONS,
    ATTENTIONS,
    HEAD_SCALES,
    LARGEST,
    NORMS,
    POSITIONS,
    READOUTS,
    Configuration,
    ModelConfig,
    check_size,
)

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "HEAD_SCALES",
    "NORMS",
    "POSITIONS",
    "READOUTS",
    "CausalRNConfig",
    "Configuration",
    "ModelConfig",
    "OwnModelConfig",
    "TransformerConfig",
]


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
            Network does); "" is the default: with exp and post-norm "max" for exact, and for linear with a `norm_eps`,
            as the official Linear Relation Network has it (without an eps it cancels there); else "none".
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
            official = self._may_be_scaled and self.post_norm
            object.__setattr__(self, "head_scale", "max" if official else "none")
        super().__post_init__()

    @property
    def _may_be_scaled(self) -> bool:
        """Whether `head_scale` max is a choice, and the default with post-norm."""
        linear = self.readout == "linear" and self.post_norm and self.norm_eps > 0
        return self.activation == "exp" and (self.readout == "exact" or linear)

    @property
    def scales_heads(self) -> bool:
        """Whether o is divided by its largest channel, per head: where that does not cancel in the norm after."""
        return self.head_scale == "max" and (self.heads > 1 or not self.post_norm or self.norm_eps > 0)

    @property
    def forgets_scale(self) -> bool:
        """Whether a positive factor of all channels of o cancels: in the head scale of a single head, or post-norm."""
        return self.post_norm and (not self.norm_eps or (self.head_scale == "max" and self.heads == 1))

    @property
    def counts_positions(self) -> bool:
        """Whether the number of positions that o is a mean over counts: where it does not cancel.

        With post-norm and an eps it counts with a head scale too: the official code divides by it after that scale.
        """
        return self.norm_eps > 0 if self.post_norm else self.head_scale == "none"

    def _check_heads(self) -> None:
        if self.hidden % self.heads:
            raise ConfigError(f"heads {self.heads} does not divide hidden {self.hidden}")
        if self.head_width < 2:
            raise ConfigError(f"hidden {self.hidden} over {self.heads} heads leaves a width below 2 to normalize")
        if self.hidden == 2 and self.norm == "layer" and self.post_norm and self.readout != "plain":
            raise ConfigError(
                "hidden 2 with layer norm before and after the readout leaves two signs, and their ties to rounding: "
                "use hidden 3 or more, norm rms, or no post-norm"
            )
        if self.heads > 1 and self.readout != "exact":
            raise ConfigError(
                f"heads {self.heads} and readout {self.readout} contradict each other: "
                "only the exact readout has heads, the others would ignore them"
            )
        if self.head_scale == "max" and not self._may_be_scaled:
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


@dataclass(frozen=True)
class OwnModelConfig(Configuration):
    """A recurrent model that users bring: all that is known of it beside its state and its graphs.

    Attributes:
        name: of the model, for people: its class.
        parameters: how many numbers it has learned.
    """

    architecture: ClassVar[str] = "own"

    vocabulary: int
    capacity: int | None = None
    name: str = "model"
    parameters: int = 0

    def __post_init__(self) -> None:
        check_size("vocabulary", self.vocabulary, 2, LARGEST)
        if self.capacity is not None:
            check_size("capacity", self.capacity, 1, LARGEST)
        check_size("parameters", self.parameters, 0, 1 << 62)

    @property
    def pair_width(self) -> int:
        """Not known."""
        return 0

    @property
    def streams(self) -> int:
        """None are shown."""
        return 0

    @property
    def stream_width(self) -> int:
        """There is none."""
        return 0

    @property
    def hidden_values(self) -> int:
        """As many as a model of a few hundred channels has with so many parameters."""
        return max(64, self.parameters // 256)

    def describe(self) -> str:
        """Name and sizes, e.g. 'GatedLinearAttention, 12,345 parameters, vocabulary 29, unbounded'."""
        capacity = "unbounded" if self.capacity is None else f"capacity {self.capacity}"
        return f"{self.name}, {self.parameters:,} parameters, vocabulary {self.vocabulary}, {capacity}"
