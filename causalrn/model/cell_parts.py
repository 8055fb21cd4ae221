"""What the cells of all models share below the frame in cell.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from causalrn.bundle.state_spec import StateSpec

Norm = Callable[[Tensor], Tensor]
"""LN0 of the residual stream, [T * B, E] -> [T * B, E]."""

State = tuple[Tensor, ...]

_LEAST_ROWS = 8
"""Graphs are traced with open numbers of rows: with a range that is too short they would be taken for constants."""


def rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A folded weight in the cell's dtype, row by row in memory: some converters read that as it lies."""
    return None if tensor is None else tensor.detach().to(dtype).contiguous()


def whole_pool(past: Tensor, new: Tensor, position: Tensor, row: Tensor) -> Tensor:
    """A fixed pool with new rows in their places.

    Args:
        past: [C, B, H]; new: [T, B, H]; row: 0, 1, ..., as many as there are rows or more.

    Returns:
        [C, B, H]; empty rows are zeros, so that a sum puts the new ones in, whatever the number of them.
    """
    time, row = new.shape[0], row.to(position.dtype)
    every = row[: past.shape[0], None]
    if time == 1:
        return torch.where((every == position)[:, None], new, past)
    is_place = (every == position + row[:time]).to(new.dtype)  # [C, T]
    return past + (is_place @ new.flatten(1)).reshape(past.shape)


def given_pool(spec: StateSpec, past: Tensor, new: Tensor, position: Tensor, row: Tensor | None) -> Tensor:
    """What a cell gives of a pool: its new rows, or all of a fixed one; arguments as of :func:`whole_pool`."""
    if not spec.gives_fixed_pools:
        return new
    assert row is not None
    return whole_pool(past, new, position, row)


def most_rows(spec: StateSpec) -> int | None:
    """Length of the constants that masks are cut out of: C, or a few more; None where positions have no bound."""
    return None if spec.capacity is None else max(spec.capacity, _LEAST_ROWS)


def row_index(spec: StateSpec) -> Tensor | None:
    """int64 [C or more]: 0, 1, ..., for masks; None where positions have no bound."""
    rows = most_rows(spec)
    return None if rows is None else torch.arange(rows)
