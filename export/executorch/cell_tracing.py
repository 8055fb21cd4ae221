"""From a cell to a program of PyTorch's own operators, its sizes open within bounds.

ExecuTorch plans memory when it converts: every open size needs a largest value, which the state contract gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from causalrn.errors import ConfigError
from causalrn.model.cell import RecurrentCell
from causalrn.model.cell_parts import most_rows

_EXAMPLE_ROWS, _EXAMPLE_BATCH, _EXAMPLE_TIME = 6, 3, 4


@dataclass(frozen=True)
class ExampleCall:
    """A call of a cell, as programs are traced with it.

    Attributes:
        arguments: tokens, position and states.
        dims: of each, which of its axes are open, and up to where.
    """

    arguments: tuple[Tensor, ...]
    dims: tuple[dict[int, Any] | None, ...]

    def trace(self, module: nn.Module, *, is_cell: bool = False) -> ExportedProgram:
        """The program of a call of a module with these arguments.

        Args:
            is_cell: whether it takes its states as one variable argument, and not one by one.
        """
        shapes: tuple[Any, ...] = (*self.dims[:2], self.dims[2:]) if is_cell else self.dims
        with torch.no_grad():
            return torch.export.export(module, self.arguments, dynamic_shapes=shapes, strict=False)


def example_call(cell: RecurrentCell, graph: str, *, max_batch: int, chunk: int) -> ExampleCall:
    """Arguments of a call, and which of their sizes are open, up to where.

    Args:
        graph: "step" (T = 1), "step_single" (T = B = 1) or "prefill" (T from 2 to `chunk`).
        max_batch: most sequences; the step for one sequence and, where this is 1, the others have B = 1.
        chunk: most tokens of a prefill.

    Raises:
        ConfigError: a growing pool without a capacity.
    """
    spec, one_token = cell.spec, graph != "prefill"
    most_sequences = 1 if graph == "step_single" else max_batch
    batch, time = min(most_sequences, _EXAMPLE_BATCH), 1 if one_token else _EXAMPLE_TIME
    pad, most = spec.step_pad_rows if one_token else 0, most_rows(spec)
    dims = {"B": Dim("B", min=2, max=most_sequences)} if most_sequences > 1 else {}
    if spec.has_pool and spec.pool == "growing":
        if most is None:
            raise ConfigError("ExecuTorch plans memory for a largest pool: name a `capacity` for this model")
        dims["t"] = Dim("t", min=2, max=most + pad)
    rows = _EXAMPLE_ROWS if cell.capacity is None else min(_EXAMPLE_ROWS, cell.capacity + pad)
    state = tuple(torch.zeros(tensor.sized(batch=batch, rows=rows)) for tensor in spec.tensors)
    state_dims = (
        {axis: dims[dim] for axis, dim in enumerate(tensor.shape) if isinstance(dim, str) and dim in dims}
        for tensor in spec.tensors
    )
    token_dims = {0: dims["B"]} if "B" in dims else {}
    if not one_token:
        token_dims[1] = Dim("T", min=2, max=max(chunk, _EXAMPLE_TIME))
    arguments = (torch.zeros(batch, time, dtype=torch.int64), torch.tensor(5), *state)
    return ExampleCall(arguments, (token_dims, None, *state_dims))
