"""The cell as converters want it that know no open shapes: one shape per call, inputs and outputs by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalrn.bundle.converted_spec import plain_name
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import ConfigError
from causalrn.model.cell import RecurrentCell

LOGITS = "logits"


class NamedCell(nn.Module):
    """A cell whose inputs and outputs carry the names of the state contract, with "_" for ".".

    Args:
        cell: with a state of constant size or a fixed pool.

    Raises:
        ConfigError: a weight whose rows do not lie one behind the other: litert-torch reads its memory as if they did,
            and what it writes is wrong without an error.
    """

    def __init__(self, cell: RecurrentCell) -> None:
        super().__init__()
        for name, buffer in cell.named_buffers():
            if not buffer.is_contiguous():
                raise ConfigError(f"weight {name} does not lie in memory row by row: make it contiguous")
        self.cell = cell

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Advance one sequence: by name `tokens` [1, T], `position` [], states; gives `logits` and rows or states."""
        tensors = self.cell.spec.tensors
        state = [inputs[plain_name(tensor.input)] for tensor in tensors]
        logits, *outputs = self.cell(inputs["tokens"], inputs["position"].reshape(()), *state)
        names = [plain_name(tensor.output) for tensor in tensors]
        return {LOGITS: logits, **dict(zip(names, outputs, strict=True))}


def static_inputs(spec: StateSpec, time: int, *, position_shape: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Inputs of a call with T tokens of one sequence, all zeros: int32 tokens and position, states as the contract has.

    Args:
        spec: without a growing pool.
        time: T.
        position_shape: (1,) where a runtime has no scalars.
    """
    state = {plain_name(tensor.input): torch.zeros(tensor.sized(batch=1)) for tensor in spec.tensors}
    position = torch.zeros(position_shape, dtype=torch.int32)
    return {"tokens": torch.zeros(1, time, dtype=torch.int32), "position": position, **state}


def static_chunk(spec: StateSpec, most: int) -> int:
    """Tokens of the prefill graph's one shape: `most`, or the capacity where that is less."""
    return most if spec.capacity is None else min(most, spec.capacity)
