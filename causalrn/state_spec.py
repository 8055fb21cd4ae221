"""What a recurrent cell remembers, tensor by tensor: the state contract in one object. Needs no torch.

Derived once from the configuration, written into the bundle's manifest and the ONNX metadata; every exporter
and every runtime reads it, none recomputes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.config import ModelConfig
from causalrn.errors import ConfigError

POOL_KINDS = ("growing", "fixed", "concat")
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}
"""Element types that a state may have, and the bytes of one element."""

_LEAST_CAPACITY = 2

Dim = int | str


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state.

    Attributes:
        name: zero-padded block number and role, e.g. "00.pool"; sorted names are block order.
        role: "pool" (one row per token), "scale" (one number per row of an int8 pool: row times scale is the value),
            "sum", "max", or "carry" (what rounding took from the sum, Kahan 1965).
        shape: sizes; "t" is the number of tokens seen, "B" the batch.
        update: "append" (the graph gives new rows, the runtime writes them) or "replace" (it gives the
            complete next state).
        growth: "token" (one row per token) or "constant".
        capacity: most rows it can hold; None without a bound.
        dtype: numpy name of the element type.
        initial: value of every element in a fresh state.
        batch_axis: which axis of `shape` is the batch.
    """

    name: str
    role: str
    shape: tuple[Dim, ...]
    update: str
    growth: str
    capacity: int | None
    dtype: str = "float32"
    initial: float = 0.0
    batch_axis: int = 0

    @property
    def input_name(self) -> str:
        """Name of the graph input, e.g. "past.00.pool"."""
        return f"past.{self.name}"

    @property
    def output_name(self) -> str:
        """Name of the graph output: "row.*" for append, "present.*" for replace."""
        return ("row." if self.update == "append" else "present.") + self.name

    @property
    def is_remainder(self) -> bool:
        """Whether it holds rounding errors only: any two dtypes or splits disagree on them, and may."""
        return self.role == "carry"

    @property
    def scale_name(self) -> str | None:
        """Name of the tensor that scales this one's rows; None where rows are values themselves."""
        return self.name.removesuffix(self.role) + "scale" if self.dtype == "int8" else None

    @property
    def open_shape(self) -> tuple[Dim, ...]:
        """The shape that graphs for batches take: a fixed pool may be handed in with fewer rows than its capacity."""
        return ("t", *self.shape[1:]) if self.growth == "token" else self.shape

    def given(self, *, batch: int, rows: int) -> tuple[int, ...]:
        """:attr:`open_shape` in numbers: what a graph is handed."""
        return (rows, *self.sized(batch=batch)[1:]) if self.growth == "token" else self.sized(batch=batch)

    def sized(self, *, batch: int, rows: int = 0) -> tuple[int, ...]:
        """The shape in numbers, for so many sequences and, where it grows, so many rows."""
        sizes = {"B": batch, "t": rows}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)


@dataclass(frozen=True)
class StateSpec:
    """All tensors of a cell's state, in the order in which graphs take and give them."""

    pool: str
    tensors: tuple[StateTensor, ...]

    @classmethod
    def from_config(
        cls, config: ModelConfig, pool: str = "growing", capacity: int | None = None, pool_dtype: str = "float32"
    ) -> StateSpec:
        """Derive the state from a configuration.

        Args:
            pool: "growing" (rows out, the runtime appends), "fixed" (`capacity` rows and a mask, one shape for
                every step) or "concat" (present = past + row, inside the graph). Without a pool it has no effect.
            capacity: most positions; defaults to the configuration's.
            pool_dtype: element type of a pool's rows; "int8" comes with a scale per row. Sums are float32, always.

        Raises:
            ConfigError: an unknown kind or element type, a capacity beyond the learned positions, or a fixed pool
                without one.
        """
        if pool not in POOL_KINDS:
            raise ConfigError(f"pool {pool!r} is unknown: choose one of {', '.join(POOL_KINDS)}")
        if pool_dtype not in ITEM_BYTES:
            raise ConfigError(f"pool dtype {pool_dtype!r} is unknown: choose one of {', '.join(ITEM_BYTES)}")
        capacity = config.capacity if capacity is None else capacity
        if config.capacity is not None and (capacity or 0) > config.capacity:
            raise ConfigError(
                f"capacity {capacity} is beyond the model's {config.capacity} learned positions: ask for less"
            )
        shape = config.state_shape
        if config.state_kind == "pool":
            if pool == "fixed" and capacity is None:
                raise ConfigError("a fixed pool needs a capacity: this model has no learned positions, so name one")
            rows: Dim = capacity if pool == "fixed" and capacity is not None else "t"
            kinds: list[tuple[str, str, tuple[Dim, ...]]] = [("pool", pool_dtype, (rows, "B", *shape))]
            kinds += [("scale", "float32", (rows, "B"))] if pool_dtype == "int8" else []
            update, growth, batch_axis = "replace" if pool == "concat" else "append", "token", 1
        else:
            roles = config.state_kind.split("+")
            kinds = [(role, "float32", ("B", *shape)) for role in roles]
            update, growth, batch_axis = "replace", "constant", 0
        digits = max(2, len(str(config.blocks - 1)))  # so that sorted names are in block order
        tensors = tuple(
            StateTensor(
                f"{block:0{digits}d}.{role}", role, shape, update, growth, capacity, dtype, batch_axis=batch_axis
            )
            for block in range(config.blocks)
            for role, dtype, shape in kinds
        )
        return cls(pool if config.state_kind == "pool" else "none", tensors)

    def check_useful(self) -> None:
        """Refuse to export what could take a single token.

        Raises:
            ConfigError: the capacity is below 2.
        """
        capacity = self.tensors[0].capacity
        if capacity is not None and capacity < _LEAST_CAPACITY:
            raise ConfigError(f"capacity {capacity} is too short to be of use: export with at least {_LEAST_CAPACITY}")

    @property
    def has_pool(self) -> bool:
        """Whether the state grows with every token."""
        return any(tensor.growth == "token" for tensor in self.tensors)

    @property
    def step_pad_rows(self) -> int:
        """Rows of zeros that a step graph expects behind the pool, for the new row (see docs/state-contract.md)."""
        return 1 if self.pool == "growing" else 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that every token of one sequence adds, or takes up in a fixed pool; 0 where the size is constant."""
        rows = [tensor for tensor in self.tensors if tensor.growth == "token"]
        return sum(ITEM_BYTES[tensor.dtype] * math.prod(tensor.sized(batch=1)[1:]) for tensor in rows)

    def size_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes that the state holds after `tokens` positions: N * t * H * 4 for an exact readout's pool of float32."""
        return sum(
            ITEM_BYTES[tensor.dtype] * math.prod(tensor.sized(batch=batch, rows=tokens)) for tensor in self.tensors
        )

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON values."""
        tensors = []
        for tensor in self.tensors:
            entry = dataclasses.asdict(tensor)
            entry["shape"] = list(tensor.shape)
            entry["input"], entry["output"] = tensor.input_name, tensor.output_name
            tensors.append(entry)
        return {"pool": self.pool, "tensors": tensors}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StateSpec:
        """Read :meth:`to_json`'s form back.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        try:
            tensors = []
            for entry in data["tensors"]:
                values = {key: value for key, value in entry.items() if key not in ("input", "output")}
                values["shape"] = tuple(values["shape"])
                tensors.append(StateTensor(**values))
            return cls(data["pool"], tuple(tensors))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"the state specification is malformed: {error}") from None
