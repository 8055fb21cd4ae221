"""Folding: what can be computed once, before the first token, in float64. Used by the cell, never by the oracle.

With layer norm, the centring matrix I - 11'/n goes into the weights that write a vector which is only ever read
through LN0: then LN0 of it is an RMS norm. Over E it goes into wte, wpe, W3 and b3, over the hidden width into W1, b1
and W2: per head for the exact readout, over all of H for linear, never for plain (its pairs are not normalized).
RMS models are not centred at all. The norm after the readout stays what it is. In a Transformer the two maps that write
to the residual stream are centred over E, and 1 / sqrt(D) goes into the queries' weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causalrn.errors import CheckpointError
from causalrn.model.causalrn_block import CausalRNBlock
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.normalization import centre
from causalrn.model.sequence_model import SequenceModel
from causalrn.model.transformer_block import TransformerBlock

_FLOAT32_MAX = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class FoldedCausalRNBlock:
    """Weights of a CausalRN's block, float64: w1, w2 [H, E]; w3 [E, H]; b1, b2 [H]; b3 [E]; a missing bias is None."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    w3: Tensor
    b3: Tensor | None

    def reach(self, config: CausalRNConfig) -> tuple[float, float]:
        """Largest value in a pair, and largest value added to the residual stream; the latter 0 where none is known.

        |r| = sqrt(E) and |LN0(o)| = sqrt(H) bound what is normalized, whatever the tokens. Without post-norm o has no
        such bound; the cell then makes NaN of what overflows, which sessions refuse.
        """
        pair = sum(_reach(w, b, math.sqrt(config.embedding)).max() for w, b in ((self.w1, self.b1), (self.w2, self.b2)))
        added = _reach(self.w3, self.b3, math.sqrt(config.hidden)).max() if config.post_norm else 0.0
        return float(pair), float(added)


@dataclass(frozen=True)
class FoldedTransformerBlock:
    """Weights of a Transformer's block, float64: wqkv [3E, E]; wo [E, E]; w1 [H, E], b1 [H]; w2 [E, H], b2 [E]."""

    wqkv: Tensor
    wo: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def reach(self, config: TransformerConfig) -> tuple[float, float]:
        """Largest score's root or other inner value, and largest value added to the residual stream.

        Attention gives a mean of values, and |gelu(x)| <= |x|.
        """
        width = math.sqrt(config.embedding)
        queries, keys, values = (part.norm() for part in _reach(self.wqkv, None, width).chunk(3))
        inner = _reach(self.w1, self.b1, width)
        added = _reach(self.wo, None, values).max() + _reach(self.w2, self.b2, inner.norm()).max()
        return float(max((queries * keys).sqrt(), values, inner.max())), float(added)


FoldedBlock = FoldedCausalRNBlock | FoldedTransformerBlock


@dataclass(frozen=True)
class FoldedWeights:
    """A model's weights ready for the cell, float64, not yet rounded: wte [V, E], wpe [C, E], head [V, E]."""

    config: ModelConfig
    wte: Tensor
    wpe: Tensor | None
    blocks: tuple[FoldedBlock, ...]
    head: Tensor
    head_bias: Tensor | None


def fold(model: SequenceModel) -> FoldedWeights:
    """Fold a model's weights in float64; the model stays as it is.

    Raises:
        CheckpointError: weights that are not finite, or so large that float32 squares of what they produce overflow.
    """
    config = model.config
    oracle = model.oracle()
    for name, weight in oracle.state_dict().items():
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"weight {name} holds NaN or infinity: train or convert again from a good checkpoint")
    over_width = _centre_rows if config.norm == "layer" else _keep
    wpe = over_width(oracle.wpe.weight) if config.capacity is not None else None
    folded = FoldedWeights(
        config,
        over_width(oracle.wte.weight),
        wpe,
        tuple(_fold_block(block) for block in oracle.blocks),
        oracle.head.weight,
        oracle.head.bias,
    )
    _check_range(folded)
    return folded


def _fold_block(block: nn.Module) -> FoldedBlock:
    if isinstance(block, TransformerBlock):
        return _fold_transformer_block(block)
    assert isinstance(block, CausalRNBlock)
    return _fold_causalrn_block(block)


def _fold_transformer_block(block: TransformerBlock) -> FoldedTransformerBlock:
    attn, mlp, config = block.attn, block.mlp, block.config
    over_width = _centre_outputs if config.norm == "layer" else _keep
    scales = torch.ones_like(attn.fc_1.weight)
    if config.attention == "softmax":
        scales[: config.embedding] = config.head_width**-0.5
    return FoldedTransformerBlock(
        attn.fc_1.weight * scales,
        over_width(attn.fc_2.weight),
        mlp.fc_1.weight,
        mlp.fc_1.bias,
        over_width(mlp.fc_2.weight),
        over_width(mlp.fc_2.bias),
    )


def _fold_causalrn_block(block: CausalRNBlock) -> FoldedCausalRNBlock:
    config = block.config
    over_width = _centre_outputs if config.norm == "layer" else _keep
    groups = {"exact": config.heads, "linear": 1, "plain": 0}[config.readout] if config.norm == "layer" else 0

    def over_hidden(weight: Tensor | None) -> Tensor | None:
        if weight is None or not groups:
            return weight
        return centre(weight.reshape(groups, -1, *weight.shape[1:]).movedim(1, -1)).movedim(-1, 1).flatten(0, 1)

    w1, w2 = over_hidden(block.fc_1.weight), over_hidden(block.fc_2.weight)
    assert w1 is not None
    assert w2 is not None
    b3 = block.fc_3.bias
    return FoldedCausalRNBlock(
        w1,
        over_hidden(block.fc_1.bias),
        w2,
        over_hidden(block.fc_2.bias),
        over_width(block.fc_3.weight),
        None if b3 is None else over_width(b3),
    )


def _keep(weight: Tensor) -> Tensor:
    return weight


def _centre_rows(weight: Tensor) -> Tensor:
    """Centre each embedding vector, [rows, E] -> [rows, E]."""
    return centre(weight)


def _centre_outputs(weight: Tensor) -> Tensor:
    """Centre what a linear map writes: over the output axis of [E, H] or [E]."""
    return centre(weight.movedim(0, -1)).movedim(-1, 0)


def _check_range(folded: FoldedWeights) -> None:
    """Refuse weights with which a mean square could overflow in float32 (it would come out as zeros, silently)."""
    config = folded.config
    stream = float(folded.wte.abs().max()) + (float(folded.wpe.abs().max()) if folded.wpe is not None else 0.0)
    for index, block in enumerate(folded.blocks):
        inner, added = block.reach(config)  # type: ignore[arg-type]  # a block comes from a config of its own kind
        stream += added
        reach = max(inner, stream)
        if not reach**2 * max(config.hidden, config.embedding) <= _FLOAT32_MAX:
            raise CheckpointError(
                f"block {index}: weights let values reach {reach:.1e}, whose squares overflow float32; "
                "this model cannot run in float32"
            )


def _reach(weight: Tensor, bias: Tensor | None, length: Tensor | float) -> Tensor:
    """Largest |weight @ v + bias| over all v of a length, per output (Cauchy-Schwarz)."""
    reach: Tensor = weight.norm(dim=1) * length
    return reach if bias is None else reach + bias.abs()
