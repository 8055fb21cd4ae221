"""What a token costs at the least, in bytes, products and exps: from the configuration alone, whatever runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from causalrn.bundle.quantization import PACKED
from causalrn.bundle.state_spec import StateSpec
from causalrn.model.config import CausalRNConfig, ModelConfig

_WEIGHT_BYTES = {"float32": 4.0, "fp16": 2.0, "w8": 1.0, "w8a8-dynamic": 1.0, "w8a8": 1.0, "w4": 0.5}
_FLOATS = ("float32", "fp16")
FLOAT, WIDENED, INTEGER = "float", "widened", "integer"
"""How products are computed: in float32; with weights of 8 bits that become floats first; or between integers."""


@dataclass(frozen=True)
class Call:
    """One call of a session: T new tokens of B sequences onto `depth` earlier ones."""

    tokens: int
    depth: float
    batch: int = 1

    @property
    def rows(self) -> float:
        """Positions that the last token reads, itself included."""
        return self.depth + self.tokens

    @property
    def pairs(self) -> float:
        """Pairs of a new token and a position that it reads, of one sequence."""
        return self.tokens * self.depth + self.tokens * (self.tokens + 1) / 2


@dataclass(frozen=True)
class StepCost:
    """What a step has to do; B is the batch.

    Attributes:
        weight_bytes: read once per call, whatever B is.
        products: multiply-accumulates of one token's matrix products.
        multiplies: :data:`FLOAT`, :data:`WIDENED` or :data:`INTEGER`.
        exps: of one token at any depth.
        row_bytes: of the pool, per position that a token reads; 0 where the state has a constant size.
        row_exps, row_products: per position that a token reads.
    """

    weight_bytes: int
    products: int
    multiplies: str
    exps: int
    row_bytes: int
    row_exps: int
    row_products: int

    @classmethod
    def of(cls, config: ModelConfig, spec: StateSpec, scheme: str = "float32", form: str | None = PACKED) -> StepCost:
        """The cost of a model whose state is `spec`, with weights as a quantization scheme has them.

        In C (the form "packed") weights of w8 become floats; ONNX runtimes multiply them with inputs of 8 bits. Scales
        are not counted.

        Example: E = H = 192, 12 blocks, vocabulary 29 in float32 are 1,332,672 products, 5.3 MB of weights and, with
        the exact readout, 2,304 exps and 9,216 bytes per position.
        """
        products, pair = macs_per_token(config), config.blocks * config.pair_width
        exp = isinstance(config, CausalRNConfig) and config.activation in ("exp", "elu")
        softmax = not isinstance(config, CausalRNConfig) and spec.has_pool
        return cls(
            weight_bytes=round(products * _WEIGHT_BYTES[scheme]),
            products=products,
            multiplies=FLOAT if scheme in _FLOATS else WIDENED if (scheme, form) == ("w8", PACKED) else INTEGER,
            exps=2 * pair if exp and not spec.has_pool else 0,
            row_bytes=spec.bytes_per_token,
            row_exps=pair if spec.has_pool and (exp or softmax) else 0,
            row_products=2 * config.embedding * config.blocks if softmax else 0,
        )

    def working_set(self, call: Call) -> int:
        """Bytes that a call goes through: the weights and all pools."""
        return self.weight_bytes + round(call.batch * call.rows * self.row_bytes)


def macs_per_token(config: ModelConfig) -> int:
    """Multiply-accumulates of the matrix products: the blocks' and the head's."""
    head = config.embedding * config.vocabulary
    if isinstance(config, CausalRNConfig):
        return 3 * config.blocks * config.embedding * config.hidden + head
    sums = 0 if config.state_kind == "pool" else 2 * math.prod(config.state_shape)
    return config.blocks * (4 * config.embedding**2 + 2 * config.embedding * config.hidden + sums) + head
