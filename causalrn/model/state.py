"""Which state a model carries: the state contract of :mod:`causalrn.bundle.state_spec`, derived from a configuration.

Needs no torch. Derived once, when a bundle is exported; from then on the manifest has it.
"""

from __future__ import annotations

from causalrn.bundle.state_spec import ITEM_BYTES, POOL_KINDS, Dim, StateSpec, StateTensor
from causalrn.errors import ConfigError
from causalrn.model.config import ModelConfig


def derive_state(
    config: ModelConfig,
    pool: str = "growing",
    capacity: int | None = None,
    pool_dtype: str = "float32",
    *,
    present: bool = False,
) -> StateSpec:
    """Derive the state from a configuration.

    Args:
        config: the model.
        pool: "growing" (rows out, the runtime appends), "fixed" (`capacity` rows and a mask, one shape for every
            step) or "concat" (present = past + row, inside the graph). Without a pool it has no effect.
        capacity: most positions; defaults to the configuration's.
        pool_dtype: element type of a pool's rows; "int8" comes with a scale per row. Sums are float32, always.
        present: of a fixed pool, give all of it with the new rows in their places, not these rows alone.

    Raises:
        ConfigError: an unknown kind or element type, a capacity beyond the learned positions, a fixed pool without
            one, or `present` with another pool.

    Example:
        >>> from causalrn.model.config import CausalRNConfig
        >>> spec = derive_state(CausalRNConfig(vocabulary=29, embedding=64, hidden=64, blocks=4, capacity=34))
        >>> spec.tensors[0].name, spec.tensors[0].shape, spec.capacity
        ('00.pool', ('t', 'B', 64), 34)
    """
    if pool not in POOL_KINDS:
        raise ConfigError(f"pool {pool!r} is unknown: choose one of {', '.join(POOL_KINDS)}")
    if pool_dtype not in ITEM_BYTES:
        raise ConfigError(f"pool dtype {pool_dtype!r} is unknown: choose one of {', '.join(ITEM_BYTES)}")
    if present and (pool != "fixed" or config.state_kind != "pool"):
        raise ConfigError("`present` is about fixed pools, and this state has none: leave it out")
    capacity = _checked_capacity(config, pool, capacity)
    update = "replace" if present or pool == "concat" else "append"
    tensors = _pool_tensors if config.state_kind == "pool" else _constant_tensors
    digits = max(2, len(str(config.blocks - 1)))  # so that sorted names are in block order
    return StateSpec(
        pool if config.state_kind == "pool" else "none",
        tuple(
            tensor
            for block in range(config.blocks)
            for tensor in tensors(config, f"{block:0{digits}d}", pool, capacity, pool_dtype, update)
        ),
    )


def _checked_capacity(config: ModelConfig, pool: str, capacity: int | None) -> int | None:
    capacity = config.capacity if capacity is None else capacity
    if config.capacity is not None and (capacity or 0) > config.capacity:
        raise ConfigError(
            f"capacity {capacity} is beyond the model's {config.capacity} learned positions: ask for less"
        )
    if config.state_kind == "pool" and pool == "fixed" and capacity is None:
        raise ConfigError("a fixed pool needs a capacity: this model has no learned positions, so name one")
    return capacity


def _pool_tensors(
    config: ModelConfig, block: str, pool: str, capacity: int | None, dtype: str, update: str
) -> tuple[StateTensor, ...]:
    """A row per token; of int8 with a number per row."""
    rows: Dim = capacity if pool == "fixed" and capacity is not None else "t"

    def tensor(role: str, shape: tuple[Dim, ...], dtype: str) -> StateTensor:
        return StateTensor(f"{block}.{role}", role, shape, update, "token", capacity, dtype, batch_axis=1)

    scales = (tensor("scale", (rows, "B"), "float32"),) if dtype == "int8" else ()
    return (tensor("pool", (rows, "B", *config.state_shape), dtype), *scales)


def _constant_tensors(
    config: ModelConfig, block: str, pool: str, capacity: int | None, dtype: str, update: str
) -> tuple[StateTensor, ...]:
    """Sums and what belongs to them."""
    return tuple(
        StateTensor(f"{block}.{role}", role, ("B", *config.state_shape), "replace", "constant", capacity)
        for role in config.state_kind.split("+")
    )
