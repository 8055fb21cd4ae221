"""What makes a block delicate: pairs that nearly cancel, vectors with little spread, large weights.

LN0 divides by the spread of what it normalizes, so an error in there grows by 1 / spread: of a pair a_i + b_j by
|(a_i, b_j)| / |a_i + b_j|, its condition, which has no bound where b_j is near -a_i. The error bound of
docs/parity.md contains all of this; the figures here say where it comes from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causalrn.model.config import CausalRNConfig, ModelConfig
from causalrn.model.normalization import centre
from causalrn.model.readouts import parallel as parallel_readout
from causalrn.model.sequence_model import SequenceModel
from causalrn.model.transformer_block import attention
from causalrn.runtimes.parity.block_reports import BlockCondition

_ROWS = 64


def condition_blocks(oracle: SequenceModel, tokens: Tensor) -> list[BlockCondition]:
    """Look at every block of a float64 model on tokens [B, T]."""
    config, seen = oracle.config, []

    def watch(*inputs: Any) -> Tensor:
        out = parallel_readout.readout(*inputs) if isinstance(config, CausalRNConfig) else attention(*inputs)
        seen.append((inputs, out))
        return out

    with torch.inference_mode():
        x, conditions = oracle.embed(tokens), []
        for block in oracle.blocks:
            spread = _spread(x, config)
            x = block(x, watch)
            inputs, out = seen.pop()
            if isinstance(config, CausalRNConfig) and config.post_norm:
                spread = min(spread, _spread(out, config))
            pair, condition = _worst_pair(inputs[0], inputs[1], config)
            norms = {name: _norm(weight) for name, weight in block.named_parameters() if weight.ndim == 2}
            conditions.append(BlockCondition(condition, pair, spread, norms))
    return conditions


def _norm(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight, ord=2))


def _spread(x: Tensor, config: ModelConfig) -> float:
    if config.norm == "rms":
        return 1.0
    spread = centre(x).square().mean(-1).sqrt() / x.square().mean(-1).sqrt()
    return float(spread.nan_to_num(1.0).min())  # a vector of zeros has no spread, and needs none


def _worst_pair(a: Tensor, b: Tensor, config: ModelConfig) -> tuple[tuple[int, int] | None, float | None]:
    """The pair j <= i whose sum is smallest for its parts; only the exact readout normalizes pairs."""
    if not isinstance(config, CausalRNConfig) or config.readout != "exact":
        return None, None
    heads = (*a.shape[:-1], config.heads, config.head_width)
    parts = [x.reshape(heads).transpose(1, 2) for x in (a, b)]  # [B, G, T, D]
    a, b = (centre(part) if config.norm == "layer" else part for part in parts)
    squares_a, squares_b = (x.square().sum(-1) for x in (a, b))
    worst, place = 0.0, (0, 0)
    for start in range(0, a.shape[2], _ROWS):
        rows = slice(start, start + _ROWS)
        own, other = squares_a[:, :, rows, None], squares_b[:, :, None]
        together = own + other
        summed = (together + 2 * a[:, :, rows] @ b.mT).clamp_min(0)  # [B, G, rows, T]
        future = torch.arange(a.shape[2]) > torch.arange(start, start + own.shape[2])[:, None]
        condition = (together / summed).sqrt().masked_fill(future, 0.0).nan_to_num(0.0, torch.inf).amax((0, 1))
        index = int(condition.argmax())
        if float(condition.flatten()[index]) > worst:
            worst = float(condition.flatten()[index])
            place = (start + index // condition.shape[1], index % condition.shape[1])
    return place, worst
