"""A Transformer's block as a step: (x, state) -> (x, next state), for T >= 1 tokens of B sequences.

Rows are time-major, [T * B, ...]. Softmax attention keeps a pool of rows [k | v] of width 2E; linear attention
(arXiv 2006.16236) keeps sum_j phi(k_j) [v_j | 1]^T, [B, G, D, D + 1]: its last column is the sum of the weights.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from causalrn.bundle.state_spec import StateSpec
from causalrn.model.cell_parts import Norm, State, given_pool, most_rows, rounded, row_index
from causalrn.model.config import TransformerConfig
from causalrn.model.folding import FoldedTransformerBlock
from causalrn.model.readouts import recurrent as readouts
from causalrn.model.transformer_block import elu_plus_one


class TransformerCellBlock(nn.Module):
    """One block: wqkv [3E, E] gives queries, keys and values in one product."""

    wqkv: Tensor
    wo: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, block: FoldedTransformerBlock, dtype: torch.dtype) -> None:
        super().__init__()
        for field in dataclasses.fields(block):
            self.register_buffer(field.name, rounded(getattr(block, field.name), dtype))

    def forward(self, x: Tensor, past: State, reader: _Reader, norm: Norm) -> tuple[Tensor, State]:
        """X [T * B, E] and the block's state -> the next x, and new rows or the next state."""
        o, present = reader(functional.linear(norm(x), self.wqkv), past)
        x = x + functional.linear(o, self.wo)
        h = functional.gelu(functional.linear(norm(x), self.w1, self.b1))
        return x + functional.linear(h, self.w2, self.b2), present


class TransformerReading(nn.Module):
    """How all blocks of a cell read their state: the constants that they share, and what depends on a call."""

    own_row: Tensor
    head_channels: Tensor
    index: Tensor | None

    def __init__(self, config: TransformerConfig, spec: StateSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.spec, self.dtype = config, spec, dtype
        self.capacity = spec.capacity
        self.register_buffer("index", row_index(spec))
        rows = most_rows(spec)
        if spec.pool == "growing" and rows is not None:
            own = torch.arange(rows + 1) == rows
            self.register_buffer("own_row", own[None].to(dtype))  # sliced: the new row is the last of a pool view
        if spec.pool in ("growing", "fixed"):
            channels = torch.eye(config.heads, dtype=dtype).repeat_interleave(config.head_width, dim=1)
            self.register_buffer("head_channels", channels.repeat(1, 2))  # [G, 2E], which channels a head reads

    def start(self, state: State, position: Tensor, batch: int, time: int) -> _Reader:
        """The reader for one call: T tokens of B sequences at a position."""
        if self.config.attention == "linear":
            return _SumReader(self, batch, time)
        single_row = time == 1 and batch == 1 and self.spec.pool != "concat"
        return (_SingleRowPoolReader if single_row else _PoolReader)(self, batch, time, position, state[0].shape[0])


class _Reader:
    """Reads one block's state: (qkv [T * B, 3E], past) -> (o [T * B, E], present). Holds what all blocks share."""

    def __init__(self, shared: TransformerReading, batch: int, time: int) -> None:
        self.shared, self.config = shared, shared.config
        self.batch, self.time = batch, time

    def __call__(self, qkv: Tensor, past: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def by_head(self, x: Tensor) -> Tensor:
        """[n * B, E] or [n, B, E] -> [B, G, n, D]."""
        return x.reshape(-1, self.batch, self.config.heads, self.config.head_width).permute(1, 2, 0, 3)

    def new_by_head(self, x: Tensor) -> Tensor:
        """[T * B, E] -> [B, G, T, D]; for T = 1 nothing has to move."""
        shape = (self.batch, self.config.heads, 1, self.config.head_width)
        return x.reshape(shape) if self.time == 1 else self.by_head(x)

    def joined(self, o: Tensor) -> Tensor:
        """[B, G, T, D] -> [T * B, E]."""
        return (o if self.time == 1 else o.permute(2, 0, 1, 3)).reshape(-1, self.config.embedding)


class _PoolReader(_Reader):
    """Softmax attention over past rows and the new ones. The mask is -inf where a row is empty or in the future."""

    def __init__(self, shared: TransformerReading, batch: int, time: int, position: Tensor, rows: int) -> None:
        super().__init__(shared, batch, time)
        self.position = position
        self.in_place = time == 1 and shared.spec.pool != "concat"
        fixed, dtype, index = shared.spec.pool == "fixed", shared.dtype, shared.index
        self.mask: Tensor | None = None
        if not self.in_place:
            reads = readouts.prefill_weights(rows, time, position, dtype=dtype, known=index)[:, 0]  # [T, t + T]
            self.mask = _log(reads) if time > 1 or fixed else None
            return
        if shared.spec.pool == "growing" and shared.capacity is not None:
            self.own = shared.own_row[:, -rows:]  # [1, n], 1 at the new row
            return
        terms, exists = readouts.step_masks(rows, position, fixed=fixed, dtype=dtype, known=index)
        self.own = terms[:, 1][None]
        self.mask = _log(exists) if fixed else None

    def __call__(self, qkv: Tensor, past: State) -> tuple[Tensor, State]:
        width = self.config.embedding
        q = qkv[:, :width]
        new = qkv[:, width:].reshape(-1, self.batch, 2 * width)  # [T, B, 2E]
        rows = past[0] + self.own.t()[:, :, None] * new if self.in_place else torch.cat([past[0], new])
        keys, values = (self.by_head(part) for part in rows.chunk(2, dim=-1))
        scores = self.new_by_head(q) @ keys.mT  # [B, G, T, n]; 1 / sqrt(D) is in the weights
        o = self.softmax(scores) @ values
        return self.joined(o), (rows if self.shared.spec.pool == "concat" else self.present(past[0], new),)

    def present(self, past: Tensor, new: Tensor) -> Tensor:
        """What is given of the pool."""
        return given_pool(self.shared.spec, past, new, self.position, self.shared.index)

    def softmax(self, scores: Tensor) -> Tensor:
        """Weights of the rows that may be read."""
        return torch.softmax(scores if self.mask is None else scores + self.mask, dim=-1)


class _SingleRowPoolReader(_PoolReader):
    """T = B = 1 without a copy of the pool: heads read its rows [n, 2E] whole, with zeros where they have no part."""

    def __call__(self, qkv: Tensor, past: State) -> tuple[Tensor, State]:
        width, heads = self.config.embedding, self.config.heads
        new = qkv[:, width:]  # [1, 2E]
        rows = past[0].reshape(-1, 2 * width)
        queries = functional.pad(qkv[:, :width], (0, width))  # [1, 2E]: nothing is asked of the values
        if heads > 1:
            queries = queries * self.shared.head_channels  # [G, 2E]
        # the new row's slot in the pool is zero: its score and its value are added
        scores = torch.addmm(queries @ rows.t(), queries @ new.t(), self.own)  # [G, n]
        weights = self.softmax(scores)
        o = torch.addmm(weights @ rows, weights @ self.own.t(), new)  # [G, 2E]
        if heads > 1:
            o = (o * self.shared.head_channels).sum(0, keepdim=True)
        return o[:, width:], (self.present(past[0], new.reshape(1, 1, -1)),)


class _SumReader(_Reader):
    """Linear attention: the sum over the past, then the chunk's own pairs."""

    def __call__(self, qkv: Tensor, past: State) -> tuple[Tensor, State]:
        width = self.config.embedding
        q, k = (self.new_by_head(part) for part in elu_plus_one(qkv[:, : 2 * width]).chunk(2, dim=-1))  # [B, G, T, D]
        v = functional.pad(self.new_by_head(qkv[:, 2 * width :]), (0, 1), value=1.0)
        columns = k.reshape(*k.shape[:2], -1, 1) if self.time == 1 else k.mT
        local = columns @ v  # [B, G, D, D + 1]
        present: State
        if len(past) == 2:
            carry, total = past
            sums, next_carry = readouts.read_compensated_sum(local[None], total, carry)
            before, present = total - carry, (next_carry, sums[-1])
        else:
            before, present = past[0], (past[0] + local,)
        weighted = q @ present[-1] if self.time == 1 else q @ before + (q @ k.mT).tril() @ v
        o = weighted[..., :-1] / weighted[..., -1:]
        return self.joined(o), present


def _log(weights: Tensor) -> Tensor:
    """0 where a weight is 1, -inf where it is 0."""
    return torch.where(weights > 0, torch.zeros_like(weights), torch.full_like(weights, -torch.inf))
