"""From a cell to a program of PyTorch's own operators, its sizes open within bounds.

ExecuTorch plans memory when it converts: every open size needs a largest value, which the state contract gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from causalrn.errors import ConfigError
from causalrn.model.cell import RecurrentCell
from causalrn.model.cell_parts import most_rows

_EXAMPLE_ROWS, _EXAMPLE_BATCH, _EXAMPLE_TIME = 6, 3, 4


def trace_program(cell: RecurrentCell, graph: str, *, max_batch: int, chunk: int) -> ExportedProgram:
    """The program of a cell's call.

    Args:
        graph: "step" (T = 1), "step_single" (T = B = 1) or "prefill" (T from 2 to `chunk`).
        max_batch: most sequences; the step for one sequence and, where this is 1, the others have B = 1.
        chunk: most tokens of a prefill.

    Raises:
        ConfigError: a growing pool without a capacity.
    """
    arguments, shapes = _example(cell, graph, 1 if graph == "step_single" else max_batch, chunk)
    with torch.no_grad():
        return torch.export.export(cell, arguments, dynamic_shapes=shapes, strict=False)


def _example(cell: RecurrentCell, graph: str, max_batch: int, chunk: int) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Arguments of a call, and which of their sizes are open, up to where."""
    spec, one_token = cell.spec, graph != "prefill"
    batch, time = min(max_batch, _EXAMPLE_BATCH), 1 if one_token else _EXAMPLE_TIME
    pad, most = spec.step_pad_rows if one_token else 0, most_rows(spec)
    dims = {"B": Dim("B", min=2, max=max_batch)} if max_batch > 1 else {}
    if spec.has_pool and spec.pool == "growing":
        if most is None:
            raise ConfigError("ExecuTorch plans memory for a largest pool: name a `capacity` for this model")
        dims["t"] = Dim("t", min=2, max=most + pad)
    rows = _EXAMPLE_ROWS if cell.capacity is None else min(_EXAMPLE_ROWS, cell.capacity + pad)
    state = tuple(torch.zeros(tensor.sized(batch=batch, rows=rows)) for tensor in spec.tensors)
    state_dims = tuple(
        {axis: dims[dim] for axis, dim in enumerate(tensor.shape) if isinstance(dim, str) and dim in dims}
        for tensor in spec.tensors
    )
    token_dims = {0: dims["B"]} if "B" in dims else {}
    if not one_token:
        token_dims[1] = Dim("T", min=2, max=max(chunk, _EXAMPLE_TIME))
    arguments = (torch.zeros(batch, time, dtype=torch.int64), torch.tensor(5), *state)
    return arguments, (token_dims, None, state_dims)
