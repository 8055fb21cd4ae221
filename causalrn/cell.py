"""The recurrent form: one function from (tokens, position, state) to (logits, next state), for T >= 1.

The step is T = 1, prefill is T > 1; exporters specialise this module, they add no mathematics of their own.
`CausalRN -> fold -> RecurrentCell`: the weights are folded in float64 and rounded once, to the cell's dtype.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from causalrn import recurrent_readout as readouts
from causalrn.config import ModelConfig
from causalrn.errors import ConfigError
from causalrn.folding import FoldedBlock, FoldedWeights, fold
from causalrn.model import CausalRN
from causalrn.normalization import MEAN_SQUARE_FLOOR
from causalrn.state_spec import StateSpec

_UNBOUNDED_TOKENS = 1 << 24
_LOG_FLOAT32_MAX = 88.0


class _CellBlock(nn.Module):
    """One block's weights: w12 [2H, E] gives a and b in one product, w3 [E, H]."""

    w12: Tensor
    b12: Tensor | None
    w3: Tensor
    b3: Tensor | None

    def __init__(self, block: FoldedBlock, dtype: torch.dtype) -> None:
        super().__init__()
        w1, b1, w2, b2 = block.w1, block.b1, block.w2, block.b2
        biased = b1 is not None or b2 is not None
        parts = [w.new_zeros(len(w)) if b is None else b for w, b in ((w1, b1), (w2, b2))]
        self.register_buffer("w12", _rounded(torch.cat([w1, w2]), dtype))
        self.register_buffer("b12", _rounded(torch.cat(parts), dtype) if biased else None)
        self.register_buffer("w3", _rounded(block.w3, dtype))
        self.register_buffer("b3", _rounded(block.b3, dtype))


def _rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(dtype)


class RecurrentCell(nn.Module):
    """A CausalRN as a recurrent cell.

    Args:
        weights: from :func:`causalrn.folding.fold`.
        spec: which state it carries; the pool kind changes how the state goes in and out, not the numbers.
        dtype: of weights, state and arithmetic; float64 gives the reference state.
    """

    wte: Tensor
    wpe: Tensor | None
    head: Tensor
    head_bias: Tensor | None
    ones_embedding: Tensor
    ones_hidden: Tensor
    ones_pair: Tensor
    step_terms: Tensor
    step_weights: Tensor
    second_row: Tensor

    def __init__(self, weights: FoldedWeights, spec: StateSpec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        config = weights.config
        self.config, self.spec = config, spec
        self.capacity = next((tensor.capacity for tensor in spec.tensors), None)
        if config.capacity is not None and (self.capacity or 0) > config.capacity:
            raise ConfigError(
                f"capacity {self.capacity} is beyond the model's {config.capacity} learned positions: ask for less"
            )
        self.register_buffer("wte", _rounded(weights.wte, dtype))
        self.register_buffer("wpe", _rounded(None if weights.wpe is None else weights.wpe[: self.capacity], dtype))
        self.blocks = nn.ModuleList(_CellBlock(block, dtype) for block in weights.blocks)
        self.register_buffer("head", _rounded(weights.head, dtype))
        self.register_buffer("head_bias", _rounded(weights.head_bias, dtype))
        for name, width in (("embedding", config.embedding), ("hidden", config.hidden), ("pair", config.head_width)):
            self.register_buffer(f"ones_{name}", torch.ones(width, dtype=dtype))
        if spec.pool == "growing" and self.capacity is not None:
            # step masks as slices of constants: three nodes of the step graph instead of a dozen
            own = torch.arange(self.capacity + 1) == self.capacity
            self.register_buffer("step_terms", torch.stack([torch.ones_like(own), own], 1).to(dtype))
            self.register_buffer("step_weights", torch.ones(1, self.capacity + 1, dtype=dtype))
        self.register_buffer("second_row", torch.ones(1, 1, dtype=torch.int64))
        self.guarded = _squares_may_overflow(config, self.capacity)
        # with post-norm folding has bounded the stream; without it exp may drive it anywhere
        self.stream_norm = readouts.rms_norm if config.post_norm else readouts.rms_norm_or_nan
        self.eval()

    @classmethod
    def from_model(
        cls,
        model: CausalRN,
        *,
        pool: str = "growing",
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RecurrentCell:
        """Fold a model and build its cell; `pool` and `capacity` as in :meth:`StateSpec.from_config`."""
        return cls(fold(model), StateSpec.from_config(model.config, pool, capacity), dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of weights, state and logits."""
        return self.head.dtype

    def forward(self, tokens: Tensor, position: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Advance by T tokens.

        Args:
            tokens: int64 [B, T].
            position: int64 scalar, tokens seen so far.
            state: one tensor per entry of ``spec.tensors``. A growing pool is [t, B, H] for T > 1 and
                [t + 1, B, H], its last row zero, for T = 1.

        Returns:
            logits [B, T, V], then per state tensor either its new rows [T, B, H] or its complete next value.
        """
        batch, time = tokens.shape
        single = time == 1
        x = functional.embedding(tokens.reshape(-1) if single else tokens.t().reshape(-1), self.wte)  # [T * B, E]
        if self.wpe is not None:
            place = functional.embedding(self._positions(position, time, single), self.wpe)  # [T, E]
            x = x + place if single else (x.reshape(time, batch, -1) + place[:, None]).flatten(0, 1)
        reader = self._reader(state, position, batch, time)
        outputs: list[Tensor] = []
        per_block = len(self.spec.tensors) // len(self.blocks)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _CellBlock)
            past = state[index * per_block : (index + 1) * per_block]
            r = self.stream_norm(x, self.ones_embedding)
            ab = functional.linear(r, block.w12, block.b12)  # [T * B, 2H]
            o, present = reader(ab, past)
            outputs.extend(present)
            x = x + functional.linear(self._finish(o, position, time, single), block.w3, block.b3)
        logits = functional.linear(self.stream_norm(x, self.ones_embedding), self.head, self.head_bias)
        shaped = logits.reshape(batch, 1, -1) if single else logits.reshape(time, batch, -1).transpose(0, 1)
        return shaped, *outputs

    def _positions(self, position: Tensor, time: int, single: bool) -> Tensor:
        """int64 [T]: position, position + 1, ..."""
        first = position.reshape(1)
        return first if single else first + torch.arange(time, device=position.device)

    def _reader(self, state: tuple[Tensor, ...], position: Tensor, batch: int, time: int) -> _Reader:
        kind, single = self.config.state_kind, time == 1
        if kind == "pool":
            lone = single and batch == 1 and self.spec.pool != "concat"
            reader = _LonePoolReader if lone else _PoolReader
            return reader(self, state[0].shape[0], position, time)
        return _LogSumReader(self, position, single) if kind == "max+sum" else _SumReader(self, single)

    def _finish(self, o: Tensor, position: Tensor, time: int, single: bool) -> Tensor:
        """From the sum over positions to what W3 reads. [T * B, H] -> [T * B, H]."""
        config = self.config
        if not config.post_norm and config.head_scale == "none":
            counts = (self._positions(position, time, single) + 1).to(o.dtype)  # cancels with any norm or scale after
            o = o / counts if single else (o.reshape(time, -1) / counts[:, None]).reshape(o.shape)
        scaled_by_head = config.head_scale == "max" and (config.heads > 1 or not config.post_norm)
        if scaled_by_head:
            heads = o.reshape(-1, config.heads, config.head_width)
            o = (heads / heads.amax(-1, keepdim=True)).flatten(-2)
        elif self.guarded:
            o = o / o.amax(-1, keepdim=True)
        if not config.post_norm:
            return o
        if config.norm == "rms":
            return readouts.rms_norm(o, self.ones_hidden)
        return functional.layer_norm(o, (config.hidden,), self.ones_hidden, eps=MEAN_SQUARE_FLOOR)


class _Reader:
    """Reads one block's state: (ab [T * B, 2H], past) -> (o [T * B, H], present). Holds what all blocks share."""

    def __call__(self, ab: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise NotImplementedError


class _PoolReader(_Reader):
    def __init__(self, cell: RecurrentCell, rows: int, position: Tensor, time: int) -> None:
        self.cell, self.single = cell, time == 1
        spec, dtype = cell.spec, cell.dtype
        self.in_place = self.single and spec.pool != "concat"
        fixed = spec.pool == "fixed"
        if self.in_place and spec.pool == "growing" and cell.capacity is not None:
            self.terms, self.weights = cell.step_terms[cell.capacity + 1 - rows :], cell.step_weights[:, :rows]
        elif self.in_place:
            self.terms, self.weights = readouts.step_masks(rows, position, fixed=fixed, dtype=dtype)
        else:
            self.weights = readouts.prefill_weights(rows, time, position, fixed=fixed, dtype=dtype)

    def normalized(self, x: Tensor) -> Tensor:
        """What pairs are formed from: the linear readout normalizes a and b themselves. [..., H] -> [..., H]."""
        return readouts.rms_norm(x, self.cell.ones_hidden) if self.cell.config.readout == "linear" else x

    def __call__(self, ab: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        config, ones = self.cell.config, self.cell.ones_pair
        a, b = (self.normalized(x) for x in ab.chunk(2, dim=-1))
        new = b.reshape(1, -1, config.hidden) if self.single else b.reshape(-1, past[0].shape[1], config.hidden)
        if self.in_place:
            pair = torch.cat([a, b]).reshape(2, -1)  # [2, B * H]
            return readouts.read_pool_step(pair, past[0], self.terms, self.weights, ones, config, lone=False), (new,)
        rows = torch.cat([past[0], new])  # [t + T, B, H]
        o = readouts.read_pool(a, rows, self.weights, ones, config)
        return o, (rows if self.cell.spec.pool == "concat" else new,)


class _LonePoolReader(_PoolReader):
    """T = B = 1: the same numbers with 5 fewer graph nodes per block (0.4 us each, 15 % of a step at t = 16)."""

    def __call__(self, ab: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        config, ones = self.cell.config, self.cell.ones_pair
        pair = self.normalized(ab.reshape(2, -1))  # [2, H]
        new = functional.embedding(self.cell.second_row, pair)  # row 1 as [1, 1, H]: one Gather, not Slice and Reshape
        return readouts.read_pool_step(pair, past[0], self.terms, self.weights, ones, config, lone=True), (new,)


class _SumReader(_Reader):
    def __init__(self, cell: RecurrentCell, single: bool) -> None:
        self.cell, self.single = cell, single

    def __call__(self, ab: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        query, value = (readouts.rms_norm(x, self.cell.ones_hidden) for x in ab.chunk(2, dim=-1))
        if self.cell.guarded:  # cancels in the norm after
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
    def __init__(self, cell: RecurrentCell, position: Tensor, single: bool) -> None:
        self.cell, self.position, self.single = cell, position, single

    def __call__(self, ab: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        a, b = ab.chunk(2, dim=-1)
        steps = b if self.single else b.reshape(-1, *past[0].shape)  # [B, H] or [T, B, H]
        # a fresh state is all zeros: at position 0 the past maximum is ignored, not compared
        past_max = torch.where(self.position == 0, steps if self.single else steps[0], past[0])
        if self.single:
            maximum, total = readouts.read_log_sum_step(b, past_max, past[1])
            present = (maximum, total)
        else:
            maximum, total = readouts.read_log_sum(steps, past_max, past[1])
            present = (maximum[-1], total[-1])
        log_o = a + (maximum + total.log()).reshape(a.shape)
        if self.cell.config.post_norm:
            log_o = log_o - log_o.amax(-1, keepdim=True)  # cancels in the norm after
        return log_o.exp(), present


def _squares_may_overflow(config: ModelConfig, capacity: int | None) -> bool:
    """Whether float32 squares inside the norm after the readout can overflow: o is then divided by its maximum.

    |LN0| <= sqrt(H - 1), so a sum over t positions reaches t exp(sqrt(H - 1)), for linear t exp(2 sqrt(H - 1)), and
    the mean square its square: true from H of about 480 (linear) and 1,500 to 1,900 (exact).
    """
    if not config.post_norm or config.activation != "exp" or config.readout == "plain":
        return False
    reach = math.sqrt(config.hidden - 1) * (2 if config.readout == "linear" else 1)
    return 2 * (reach + math.log(capacity or _UNBOUNDED_TOKENS)) > _LOG_FLOAT32_MAX
