"""What a graph gave, against the state contract, before any of it reaches the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import BundleError
from causalrn.runtimes.snapshot import Array

Expected = tuple[str, str, tuple[int, ...]]
"""A value's name, dtype and shape."""


def expected_outputs(
    spec: StateSpec, position: int, batch: int, time: int, vocabulary: int, capacity: int | None
) -> list[Expected]:
    """What a graph of a cell gives for T tokens: logits [B, T, V], then one tensor per state tensor."""
    rows = position + time  # of a pool that comes back whole
    if spec.gives_fixed_pools and capacity is not None:
        rows = capacity
    expected: list[Expected] = [("logits", "float32", (batch, time, vocabulary))]
    for tensor in spec.tensors:
        given = tensor.given(batch=batch, rows=time if tensor.update == "append" else rows)
        expected.append((tensor.output, tensor.dtype, given))
    return expected


def check_outputs(values: Sequence[Array], expected: Sequence[Expected], source: Path) -> None:
    """Refuse what is not shaped as the contract says.

    Raises:
        BundleError: a value has another dtype or shape.
    """
    for value, (name, dtype, shape) in zip(values, expected, strict=False):
        if value.dtype != dtype or value.shape != shape:
            what = f"{name} is {value.dtype} {list(value.shape)}, expected {dtype} {list(shape)}"
            raise BundleError(f"{source}: {what}: export the bundle again")
