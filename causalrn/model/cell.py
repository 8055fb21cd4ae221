"""The recurrent form: one function from (tokens, position, state) to (logits, next state), for T >= 1.

The step is T = 1, prefill is T > 1; exporters specialise this module, they add no mathematics of their own.
`SequenceModel -> fold -> RecurrentCell`: the weights are folded in float64 and rounded once, to the cell's dtype.

Here is the frame that all models share: embedding, residual stream, head. What a block does, and how it reads its
state, is in causalrn_cell.py and transformer_cell.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from causalrn.bundle.state_spec import StateSpec
from causalrn.model.causalrn_cell import CausalRNCellBlock, CausalRNReading
from causalrn.model.cell_parts import rounded
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.folding import FoldedBlock, FoldedCausalRNBlock, FoldedWeights, fold
from causalrn.model.readouts import recurrent as readouts
from causalrn.model.sequence_model import SequenceModel
from causalrn.model.state import derive_state
from causalrn.model.transformer_cell import TransformerCellBlock, TransformerReading


class RecurrentCell(nn.Module):
    """A CausalRN, or one of its baselines, as a recurrent cell.

    Args:
        weights: from :func:`causalrn.model.folding.fold`.
        spec: which state it carries; the pool kind changes how the state goes in and out, not the numbers.
        dtype: of weights, state and arithmetic; float64 gives the reference state.
    """

    wte: Tensor
    wpe: Tensor | None
    head: Tensor
    head_bias: Tensor | None
    ones_embedding: Tensor

    def __init__(self, weights: FoldedWeights, spec: StateSpec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        config = weights.config
        self.config, self.spec = config, spec
        self.capacity = next((tensor.capacity for tensor in spec.tensors), None)
        self.register_buffer("wte", rounded(weights.wte, dtype))
        self.register_buffer("wpe", rounded(None if weights.wpe is None else weights.wpe[: self.capacity], dtype))
        self.blocks = nn.ModuleList(_cell_block(block, dtype) for block in weights.blocks)
        self.register_buffer("head", rounded(weights.head, dtype))
        self.register_buffer("head_bias", rounded(weights.head_bias, dtype))
        self.register_buffer("ones_embedding", torch.ones(config.embedding, dtype=dtype))
        self.reading: CausalRNReading | TransformerReading
        if isinstance(config, TransformerConfig):
            self.reading = TransformerReading(config, spec, dtype)
        else:
            assert isinstance(config, CausalRNConfig)
            self.reading = CausalRNReading(config, spec, dtype)
        self._stream_norm = readouts.rms_norm if config.bounds_stream else readouts.rms_norm_or_nan
        self.eval()

    @classmethod
    def from_model(
        cls,
        model: SequenceModel,
        *,
        pool: str = "growing",
        capacity: int | None = None,
        present: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> RecurrentCell:
        """Fold a model and build its cell; the state as in :func:`causalrn.model.state.derive_state`."""
        return cls(fold(model), derive_state(model.config, pool, capacity, present=present), dtype)

    def fuse_reading(self) -> RecurrentCell:
        """Read growing pools by the fastest kernel there is: for references, see CausalRNReading.fused."""
        if isinstance(self.reading, CausalRNReading):
            self.reading.fused = True
        return self

    @property
    def reads_fused(self) -> bool:
        """Whether it does, and so holds no pairs of a chunk and the pool."""
        return isinstance(self.reading, CausalRNReading) and self.reading.fused

    @property
    def dtype(self) -> torch.dtype:
        """Element type of weights, state and logits."""
        return self.head.dtype

    def forward(self, tokens: Tensor, position: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Advance by T tokens.

        Args:
            tokens: int64 [B, T].
            position: int64 scalar, tokens seen so far.
            state: one tensor per entry of ``spec.tensors``. A growing pool is [t, B, ...] for T > 1 and
                [t + 1, B, ...], its last row zero, for T = 1.

        Returns:
            logits [B, T, V], then per state tensor either its new rows [T, B, ...] or its complete next value.
        """
        batch, time = tokens.shape
        single = time == 1
        x = functional.embedding(tokens.reshape(-1) if single else tokens.t(), self.wte)  # [B, E] or [T, B, E]
        if self.wpe is not None:
            place = functional.embedding(readouts.positions(position, time, self.reading.index), self.wpe)  # [T, E]
            x = x + (place if single else place[:, None])
        x = x if single else x.flatten(0, 1)  # [T * B, E]
        reader = self.reading.start(state, position, batch, time)
        outputs: list[Tensor] = []
        per_block = len(self.spec.tensors) // len(self.blocks)
        for index, block in enumerate(self.blocks):
            x, present = block(x, state[index * per_block : (index + 1) * per_block], reader, self._norm)
            outputs.extend(present)
        logits = functional.linear(self._norm(x), self.head, self.head_bias)
        shaped = logits.reshape(batch, 1, -1) if single else logits.reshape(time, batch, -1).transpose(0, 1)
        return shaped, *outputs

    def _norm(self, x: Tensor) -> Tensor:
        """LN0 of the residual stream, which folding has centred. [T * B, E] -> [T * B, E]."""
        return self._stream_norm(x, self.ones_embedding, self.config.norm_eps)


def _cell_block(block: FoldedBlock, dtype: torch.dtype) -> nn.Module:
    if isinstance(block, FoldedCausalRNBlock):
        return CausalRNCellBlock(block, dtype)
    return TransformerCellBlock(block, dtype)
