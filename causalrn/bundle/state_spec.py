"""What a recurrent cell remembers, tensor by tensor: the state contract in one object. Needs no torch.

Derived once from the configuration (:func:`causalrn.model.state.derive_state`), written into the bundle's manifest and
the ONNX metadata; every exporter and every runtime reads it, none recomputes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from causalrn.errors import ConfigError

POOL_KINDS = ("growing", "fixed", "concat")
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}
"""Element types that a CausalRN's state may have, and the bytes of one element."""

_OTHER_BYTES = {"float64": 8, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "uint8": 1, "bool": 1}
STATE = "state"
"""Role of the tensors of a model that brings its own state: their names are its own, too."""

_LEAST_CAPACITY = 2
_PREFIXES = {"append": "row.", "replace": "present."}
"""Of output names, by update rule."""

Dim = int | str


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state.

    Attributes:
        name: zero-padded block number and role, e.g. "00.pool"; sorted names are block order. With the role "state" the
            model's own name stands after the number: "00.conv".
        role: "pool" (one row per token), "scale" (one number per row of an int8 pool: row times scale is the value),
            "sum", "max", "carry" (what rounding took from the sum, Kahan 1965), or "state" (a model's own).
        shape: sizes; "t" is the number of tokens seen, "B" the batch.
        update: "append" (the graph gives new rows, the runtime writes them) or "replace" (it gives the
            complete next state).
        growth: "token" (one row per token) or "constant".
        capacity: most rows it can hold; None without a bound.
        dtype: numpy name of the element type.
        initial: value of every element in a fresh state.
        batch_axis: which axis of `shape` is the batch; -1 where there is none: all rows share the tensor.
        growth_axis: which axis of `shape` grows; 0 in pools, which are time-major.
        input: name of the graph input; "past." and the name.
        output: name of the graph output; "row." and the name for append, "present." and the name for replace.

    Raises:
        ValueError: names, update or growth that do not belong together.

    Example:
        >>> tensor = StateTensor("00.pool", "pool", ("t", "B", 64), "append", "token", 34, batch_axis=1)
        >>> tensor.block, tensor.input, tensor.output, tensor.sized(batch=1, rows=5)
        (0, 'past.00.pool', 'row.00.pool', (5, 1, 64))
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
    growth_axis: int = 0
    input: str = ""
    output: str = ""

    def __post_init__(self) -> None:
        known = self.dtype in ITEM_BYTES or (self.role == STATE and self.dtype in _OTHER_BYTES)
        if self.update not in _PREFIXES or self.growth not in ("token", "constant") or not known:
            raise ValueError(
                f"state tensor {self.name!r}: {self.update!r}, {self.growth!r} or {self.dtype!r} is unknown"
            )
        own = r"[A-Za-z0-9_.]+" if self.role == STATE else re.escape(self.role)
        if not re.fullmatch(rf"\d{{2,}}\.{own}", self.name):
            raise ValueError(f"state tensor {self.name!r} is not called by block and role {self.role!r}")
        if self.role == STATE and not self._has_axes:
            raise ValueError(f"state tensor {self.name!r} has axes that cannot be")
        names = {"input": f"past.{self.name}", "output": _PREFIXES[self.update] + self.name}
        for field, name in names.items():
            if getattr(self, field) not in ("", name):
                raise ValueError(f"state tensor {self.name!r} has the {field} {getattr(self, field)!r}, not {name!r}")
            object.__setattr__(self, field, name)

    @property
    def _has_axes(self) -> bool:
        """Whether the batch and what grows are where they are said to be."""
        batch = [axis for axis, size in enumerate(self.shape) if size == "B"]
        grows = [axis for axis, size in enumerate(self.shape) if size == "t"]
        return batch == [self.batch_axis][: self.batch_axis >= 0] and grows == [self.growth_axis][: self.is_pool]

    @property
    def block(self) -> int:
        """Number of the block that it belongs to, from 0."""
        return int(self.name.partition(".")[0])

    @property
    def is_pool(self) -> bool:
        """Whether it holds one row per token: a pool, or the scales of one."""
        return self.growth == "token"

    @property
    def is_scale(self) -> bool:
        """Whether it scales the rows of an int8 pool."""
        return self.role == "scale"

    @property
    def is_remainder(self) -> bool:
        """Whether it holds rounding errors only: any two dtypes or splits disagree on them, and may."""
        return self.role == "carry"

    @property
    def scale_name(self) -> str | None:
        """Name of the tensor that scales this one's rows; None where rows are values themselves."""
        return self.name.removesuffix(self.role) + "scale" if self.dtype == "int8" and self.role != STATE else None

    @property
    def open_shape(self) -> tuple[Dim, ...]:
        """The shape that graphs for batches take: a fixed pool may be handed in with fewer rows than its capacity."""
        return self._with_rows(self.shape, "t")

    def given(self, *, batch: int, rows: int) -> tuple[int, ...]:
        """:attr:`open_shape` in numbers: what a graph is handed."""
        return self._with_rows(self.sized(batch=batch), rows)

    def _with_rows(self, shape: tuple[Any, ...], rows: Dim) -> tuple[Any, ...]:
        """A shape with so many rows, where it has any."""
        axis = self.growth_axis
        return (*shape[:axis], rows, *shape[axis + 1 :]) if self.is_pool else shape

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return (ITEM_BYTES | _OTHER_BYTES)[self.dtype]

    def sized(self, *, batch: int, rows: int = 0) -> tuple[int, ...]:
        """The shape in numbers, for so many sequences and, where it grows, so many rows."""
        sizes = {"B": batch, "t": rows}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)


@dataclass(frozen=True)
class StateSpec:
    """All tensors of a cell's state, in the order in which graphs take and give them."""

    pool: str
    tensors: tuple[StateTensor, ...]

    def __post_init__(self) -> None:
        if self.pool not in (*POOL_KINDS, "none") or not self.tensors:
            raise ValueError(f"a state with pool {self.pool!r} and {len(self.tensors)} tensors")
        kinds = {tensor.update for tensor in self.tensors if tensor.is_pool}
        if self.is_own and kinds != {"growing": {"append"}, "concat": {"replace"}}.get(self.pool, set()):
            raise ValueError(f"a pool that is {self.pool!r} with the updates {sorted(kinds)}")

    @property
    def capacity(self) -> int | None:
        """C, most positions; the same for every tensor. None without a bound."""
        return self.tensors[0].capacity

    @property
    def pool_dtype(self) -> str:
        """Element type of the pools' rows; "float32" where there are none, and where users bring the state."""
        return "float32" if self.is_own else self.tensors[0].dtype

    def check_useful(self) -> None:
        """Refuse to export what could take a single token.

        Raises:
            ConfigError: the capacity is below 2.
        """
        capacity = self.capacity
        if capacity is not None and capacity < _LEAST_CAPACITY:
            raise ConfigError(f"capacity {capacity} is too short to be of use: export with at least {_LEAST_CAPACITY}")

    @property
    def has_pool(self) -> bool:
        """Whether the state grows with every token."""
        return any(tensor.is_pool for tensor in self.tensors)

    @property
    def is_own(self) -> bool:
        """Whether it is the state of a model that a user has brought."""
        return self.tensors[0].role == STATE

    @property
    def gives_fixed_pools(self) -> bool:
        """Whether graphs give a fixed pool with the new rows in their places, for runtimes that keep states alone."""
        return self.pool == "fixed" and self.tensors[0].update == "replace"

    @property
    def keeps_rows(self) -> bool:
        """Whether an earlier state is the first rows of a later one, in all of its tensors."""
        return not self.is_own and all(tensor.is_pool for tensor in self.tensors)

    @property
    def step_pad_rows(self) -> int:
        """Rows of zeros that a step graph expects behind the pool, for the new row (see docs/state-contract.md)."""
        return 1 if self.pool == "growing" and not self.is_own else 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that every token of one sequence adds, or takes up in a fixed pool; 0 where the size is constant."""
        rows = [tensor for tensor in self.tensors if tensor.is_pool]
        return sum(tensor.item_bytes * math.prod(tensor.given(batch=1, rows=1)) for tensor in rows)

    def size_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes that the state holds after `tokens` positions: N * t * H * 4 for an exact readout's pool of float32."""
        return sum(tensor.item_bytes * math.prod(tensor.sized(batch=batch, rows=tokens)) for tensor in self.tensors)
