"""A CausalRN's block as a step: (x, state) -> (x, next state), for T >= 1 tokens of B sequences.

Rows are time-major, [T * B, ...]; the readouts themselves are in recurrent_readout.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from causalrn.bundle.state_spec import StateSpec
from causalrn.model.cell_parts import Norm, State, given_pool, most_rows, rounded, row_index
from causalrn.model.config import CausalRNConfig
from causalrn.model.folding import FoldedCausalRNBlock
from causalrn.model.normalization import MEAN_SQUARE_FLOOR, Eps
from causalrn.model.operators.pair_sum import pair_sum
from causalrn.model.readouts import recurrent as readouts

_UNBOUNDED_TOKENS = 1 << 24
_LOG_FLOAT32_MAX = 88.0


class CausalRNCellBlock(nn.Module):
    """One block: w12 [2H, E] gives a and b in one product, w3 [E, H] writes to the stream."""

    w12: Tensor
    b12: Tensor | None
    w3: Tensor
    b3: Tensor | None

    def __init__(self, block: FoldedCausalRNBlock, dtype: torch.dtype) -> None:
        super().__init__()
        w1, b1, w2, b2 = block.w1, block.b1, block.w2, block.b2
        biased = b1 is not None or b2 is not None
        parts = [w.new_zeros(len(w)) if b is None else b for w, b in ((w1, b1), (w2, b2))]
        self.register_buffer("w12", rounded(torch.cat([w1, w2]), dtype))
        self.register_buffer("b12", rounded(torch.cat(parts), dtype) if biased else None)
        self.register_buffer("w3", rounded(block.w3, dtype))
        self.register_buffer("b3", rounded(block.b3, dtype))

    def forward(self, x: Tensor, past: State, reader: _Reader, norm: Norm) -> tuple[Tensor, State]:
        """X [T * B, E] and the block's state -> the next x, and new rows or the next state."""
        ab = functional.linear(norm(x), self.w12, self.b12)  # [T * B, 2H]
        o, present = reader(ab, past)
        return x + functional.linear(reader.finish(o), self.w3, self.b3), present


class CausalRNReading(nn.Module):
    """How all blocks of a cell read their state: the constants that they share, and what depends on a call.

    Attributes:
        fused: growing pools are read by :func:`causalrn.model.operators.pair_sum.pair_sum`, whose kernels hold no
            pairs: for references. What is exported, and the runtime that it is compared with, has single operations.
    """

    ones_hidden: Tensor
    ones_pair: Tensor
    step_terms: Tensor
    step_weights: Tensor
    second_row: Tensor
    index: Tensor | None

    def __init__(self, config: CausalRNConfig, spec: StateSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.spec, self.dtype = config, spec, dtype
        self.capacity = spec.capacity
        for name, width in (("hidden", config.hidden), ("pair", config.head_width)):
            self.register_buffer(f"ones_{name}", torch.ones(width, dtype=dtype))
        rows = most_rows(spec)
        if spec.pool == "growing" and rows is not None:
            # step masks as slices of constants: three nodes of the step graph instead of a dozen
            own = torch.arange(rows + 1) == rows
            self.register_buffer("step_terms", torch.stack([torch.ones_like(own), own], 1).to(dtype))
            self.register_buffer("step_weights", torch.ones(1, rows + 1, dtype=dtype))
        self.register_buffer("second_row", torch.ones(1, 1, dtype=torch.int64))
        self.register_buffer("index", row_index(spec))
        self.overflow_guard = squares_may_overflow(config, self.capacity)
        self.fused = False

    def start(self, state: State, position: Tensor, batch: int, time: int) -> _Reader:
        """The reader for one call: T tokens of B sequences at a position."""
        kind = self.config.state_kind
        if kind == "pool":
            if self.fused and self.spec.pool == "growing":
                return _FusedPoolReader(self, position, time)
            single_row = time == 1 and batch == 1 and self.spec.pool != "concat"
            return (_SingleRowPoolReader if single_row else _PoolReader)(self, position, time, state[0].shape[0])
        return (_LogSumReader if kind == "max+sum" else _SumReader)(self, position, time)


class _Reader:
    """Reads one block's state: (ab [T * B, 2H], past) -> (o [T * B, H], present). Holds what all blocks share."""

    def __init__(self, shared: CausalRNReading, position: Tensor, time: int) -> None:
        self.shared, self.config = shared, shared.config
        self.position, self.time, self.single = position, time, time == 1

    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def finish(self, o: Tensor) -> Tensor:
        """From the sum over positions to what W3 reads. [T * B, H] -> [T * B, H]."""
        config, eps = self.config, self.config.norm_eps
        scaled_eps: Eps = eps
        if config.scales_heads:
            heads = o.reshape(-1, config.heads, config.head_width)
            o = (heads / heads.amax(-1, keepdim=True)).flatten(-2)
        if config.counts_positions:
            counts = (readouts.positions(self.position, self.time, self.shared.index) + 1).to(o.dtype)
            o = o / counts if self.single else (o.reshape(self.time, -1) / counts[:, None]).reshape(o.shape)
        if self.shared.overflow_guard and not config.scales_heads:
            largest = o.amax(-1, keepdim=True)
            if eps:  # o / c normalized with eps / c is the same; c = 0 where every channel has underflowed
                largest = largest.clamp_min(MEAN_SQUARE_FLOOR)
                scaled_eps = eps / largest
            o = o / largest
        if not config.post_norm:
            return o
        norm = readouts.rms_norm if config.norm == "rms" else readouts.layer_norm
        return norm(o, self.shared.ones_hidden, scaled_eps)


class _PoolReader(_Reader):
    def __init__(self, shared: CausalRNReading, position: Tensor, time: int, rows: int) -> None:
        super().__init__(shared, position, time)
        spec, dtype, index = shared.spec, shared.dtype, shared.index
        self.in_place = self.single and spec.pool != "concat"
        fixed = spec.pool == "fixed"
        if self.in_place and spec.pool == "growing" and shared.capacity is not None:
            self.terms, self.weights = shared.step_terms[-rows:], shared.step_weights[:, :rows]
        elif self.in_place:
            self.terms, self.weights = readouts.step_masks(rows, position, fixed=fixed, dtype=dtype, known=index)
        else:
            self.weights = readouts.prefill_weights(rows, time, position, dtype=dtype, known=index)

    def normalized(self, x: Tensor) -> Tensor:
        """What pairs are formed from: the linear readout normalizes a and b themselves. [..., H] -> [..., H]."""
        if self.config.readout != "linear":
            return x
        return readouts.rms_norm(x, self.shared.ones_hidden, self.config.norm_eps)

    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        config, ones = self.config, self.shared.ones_pair
        if self.in_place:
            a, b = (self.normalized(x) for x in ab.chunk(2, dim=-1))
            pair = torch.cat([a, b]).reshape(2, -1)  # [2, B * H]
            o = readouts.read_pool_step(pair, past[0], self.terms, self.weights, ones, config, single_row=False)
            return o, (self.present(past[0], b.reshape(1, -1, config.hidden)),)
        both = ab.reshape(1, -1, ab.shape[1]) if self.single else ab.reshape(-1, past[0].shape[1], ab.shape[1])
        a, new = (self.normalized(x) for x in both.chunk(2, dim=-1))  # [T, B, H]
        rows = torch.cat([past[0], new])  # [t + T, B, H]
        o = readouts.read_pool(a, rows, self.weights, ones, config)
        return o, (rows if self.shared.spec.pool == "concat" else self.present(past[0], new),)

    def present(self, past: Tensor, new: Tensor) -> Tensor:
        """What is given of the pool."""
        return given_pool(self.shared.spec, past, new, self.position, self.shared.index)


class _SingleRowPoolReader(_PoolReader):
    """T = B = 1: the same numbers with 5 fewer graph nodes per block (0.4 us each, 15 % of a step at t = 16)."""

    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        config, ones = self.config, self.shared.ones_pair
        pair = self.normalized(ab.reshape(2, -1))  # [2, H]
        new = functional.embedding(
            self.shared.second_row, pair
        )  # row 1 as [1, 1, H]: one Gather, not Slice and Reshape
        o = readouts.read_pool_step(pair, past[0], self.terms, self.weights, ones, config, single_row=True)
        return o, (self.present(past[0], new),)


class _FusedPoolReader(_Reader):
    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        config, batch = self.config, past[0].shape[1]
        if config.readout == "linear":
            ab = readouts.rms_norm(ab.reshape(-1, config.hidden), self.shared.ones_hidden, config.norm_eps)
        a, new = ab.reshape(self.time, batch, 2, config.heads, config.head_width).unbind(2)  # [T, B, G, D]
        earlier = past[0][:-1] if self.single else past[0]  # a step's pool has a slot for its row
        rows = torch.cat([earlier.reshape(-1, *new.shape[1:]), new])  # [t + T, B, G, D]
        norm = "rms" if config.readout == "exact" else None
        o = pair_sum(
            a.transpose(0, 1), rows.transpose(0, 1), activation=config.activation, norm=norm, eps=config.norm_eps
        )
        return o.transpose(0, 1).reshape(-1, config.hidden), (new.reshape(self.time, batch, -1),)


class _SumReader(_Reader):
    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        ones, eps = self.shared.ones_hidden, self.config.norm_eps
        query, value = (readouts.rms_norm(x, ones, eps) for x in ab.chunk(2, dim=-1))
        if self.shared.overflow_guard and self.config.forgets_scale:  # cancels in the norm after, or the head scale
            query = query - query.amax(-1, keepdim=True)
        values = value.exp()
        if len(past) == 2:
            local = values.reshape(-1, *past[0].shape)  # [T, B, H]
            carry, total = past
            sums, carry = readouts.read_compensated_sum(local if self.single else local.cumsum(0), total, carry)
            return query.exp() * sums.flatten(0, 1), (carry, sums[-1])
        if self.single:
            present = past[0] + values
            return query.exp() * present, (present,)
        sums = readouts.read_sum(values.reshape(-1, *past[0].shape), past[0])
        return query.exp() * sums.flatten(0, 1), (sums[-1],)


class _LogSumReader(_Reader):
    def __call__(self, ab: Tensor, past: State) -> tuple[Tensor, State]:
        a, b = ab.chunk(2, dim=-1)
        steps = b if self.single else b.reshape(-1, *past[0].shape)  # [B, H] or [T, B, H]
        # a fresh state is all zeros: at position 0 the past maximum is ignored, not compared
        past_max = torch.where(self.position == 0, steps if self.single else steps[0], past[0])
        if self.single:
            maximum, total = readouts.read_log_sum_step(b, past_max, past[1])
            present = (maximum, total)
        else:
            maximum, total = readouts.read_log_sum(steps, past_max, past[1], self.position, self.shared.index)
            present = (maximum[-1], total[-1])
        log_o = a + (maximum + total.log()).reshape(a.shape)
        if self.config.forgets_scale:
            log_o = log_o - log_o.amax(-1, keepdim=True)  # cancels in the norm after
        return log_o.exp(), present


def squares_may_overflow(config: CausalRNConfig, capacity: int | None) -> bool:
    """Whether float32 squares inside the norm after the readout can overflow: o is then divided by its maximum.

    |LN0| <= sqrt(H - 1), so a sum over t positions reaches t exp(sqrt(H - 1)), for linear t exp(2 sqrt(H - 1)), and
    the mean square its square: true from H of about 480 (linear) and 1,500 to 1,900 (exact).
    """
    if not config.post_norm or config.activation != "exp":
        return False
    if config.readout == "plain":  # else log space has taken the largest channel away
        return config.norm_eps > 0
    reach = math.sqrt(config.hidden - 1) * (2 if config.readout == "linear" else 1)
    return 2 * (reach + math.log(capacity or _UNBOUNDED_TOKENS)) > _LOG_FLOAT32_MAX
