"""Weights of the paper authors' code, or of ours: understood from names and shapes, and turned into our names.

The official training script saves ``torch.save(model.state_dict())``; what other scripts put around it is in
weight_files.py and weight_containers.py. Keys tell a CausalRN from a Transformer, and a buffer tells a Linear
Transformer. Shapes tell the vocabulary, widths, number of blocks, capacity and biases. They do not tell the readout,
heads, norm, eps, activation or post-norm: those are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from causalrn.errors import CheckpointError, ConfigError
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel, build_model
from causalrn.model.weight_containers import FoundWeights, find_weights, name_weights
from causalrn.model.weight_files import read_weight_file

_BUFFERS = re.compile(r"pre_block\.pos|block_all\.\d+\.attn\.causal_mask")
_LINEAR_BUFFER = re.compile(r".*\.attn\.causal_mask")
_KIND = re.compile(r"blocks\.\d+\.(?:(attn|mlp)\.)?fc_")
_NAMES = (
    (re.compile(r"pre_block\.(wte|wpe)\.weight"), r"\1.weight"),
    (re.compile(r"block_all\.(\d+)\.(fc_[123])\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"block_all\.(\d+)\.(attn|mlp)\.(fc_[12])\.(weight|bias)"), r"blocks.\1.\2.\3.\4"),
    (re.compile(r"post_block\.fc_cls\.(weight|bias)"), r"head.\1"),
    (re.compile(r"((?:wte|wpe)\.weight|head\.(?:weight|bias))"), r"\1"),
    (re.compile(r"(blocks\.\d+\.(?:fc_[123]|(?:attn|mlp)\.fc_[12])\.(?:weight|bias))"), r"\1"),
)
"""Keys of the official code, then our own, and what they become."""


@dataclass(frozen=True)
class OfficialWeights:
    """A state dict of the official code, or of ours, under our names.

    Attributes:
        source: where it came from, for errors.
        weights: float32.
        model: "causalrn", "transformer" or "linear-transformer", as the keys say.
        unwrapped: what had to be taken off or out to find them, in words.
        hashes: SHA-256 of every file that was read, by name; the one that was named comes first.
    """

    source: str
    weights: dict[str, Tensor]
    model: str
    unwrapped: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


def read_official(path: Path) -> OfficialWeights:
    """Read weights that a training script saved, whatever it put around them; nothing in a file is executed.

    Args:
        path: a file of torch.save or safetensors under any name, an index of shards, or a folder that holds one.

    Raises:
        CheckpointError: the file is missing, corrupt, holds something else, or a model of another kind.
    """
    file = read_weight_file(path)
    found = find_weights(file.value, file.source, _our_name)
    return _understood(found, file.source, file.words, file.hashes)


def rename_official(state: Mapping[str, Any], source: str) -> OfficialWeights:
    """Translate a state dict's keys to ours; buffers that are no weights are left out. `source` is named in errors.

    Raises:
        CheckpointError: a key that none of the paper's models has, or a value that is no float tensor.
    """
    return _understood(name_weights(state, source, _our_name), source)


def _our_name(key: str) -> str | None:
    if _BUFFERS.fullmatch(key):
        return ""
    return next((rule.sub(to, key) for rule, to in _NAMES if rule.fullmatch(key)), None)


def _understood(
    found: FoundWeights, source: str, words: tuple[str, ...] = (), hashes: Mapping[str, str] | None = None
) -> OfficialWeights:
    kinds = {match[1] or "causalrn" for name in found.weights if (match := _KIND.match(name))}
    if not kinds:
        raise CheckpointError(f"{source}: no blocks in it: not the state dict of one of the paper's models")
    if "causalrn" in kinds and len(kinds) > 1:
        raise CheckpointError(f"{source}: mixes a CausalRN's weights with a Transformer's: save one model")
    model = "causalrn" if "causalrn" in kinds else "transformer"
    if model == "transformer" and any(_LINEAR_BUFFER.fullmatch(key) for key in found.keys):
        model = "linear-transformer"
    return OfficialWeights(source, found.weights, model, (*words, *found.words), hashes or {})


def infer_config(official: OfficialWeights, **asked: Any) -> ModelConfig:
    """Build the configuration: sizes and biases from shapes, the rest from `asked`.

    Args:
        asked: what shapes do not tell, as fields of the configuration; ``readout`` for a CausalRN.

    Raises:
        CheckpointError: a weight that every model has is missing or not a matrix.
        ConfigError: what was asked for contradicts the shapes.
    """
    weights, source = official.weights, official.source
    is_causalrn = official.model == "causalrn"
    inner = "blocks.0.fc_1" if is_causalrn else "blocks.0.mlp.fc_1"
    for name in ("wte.weight", f"{inner}.weight", "head.weight"):
        if name not in weights or weights[name].ndim != 2:
            raise CheckpointError(f"{source}: no matrix {name}: not the state dict of one of the paper's models")
    vocabulary, embedding = weights["wte.weight"].shape
    numbers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    blocks = len(numbers)
    if numbers != {str(index) for index in range(blocks)}:
        raise CheckpointError(f"{source}: its {blocks} blocks are not numbered 0 to {blocks - 1}")
    capacity = len(weights["wpe.weight"]) if "wpe.weight" in weights else None
    found: dict[str, Any] = {
        "vocabulary": vocabulary,
        "embedding": embedding,
        "hidden": len(weights[f"{inner}.weight"]),
        "blocks": blocks,
        "capacity": capacity,
        "positions": "learned" if capacity is not None else "none",
        "bias_head": "head.bias" in weights,
    }
    try:
        if not is_causalrn:
            attention = "linear" if official.model == "linear-transformer" else "softmax"
            return TransformerConfig(**found, **{"attention": attention, **asked})
        biases: dict[str, Any] = {f"bias_{index}": f"blocks.0.fc_{index}.bias" in weights for index in (1, 2, 3)}
        return CausalRNConfig(**found, **biases, **asked)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def build_official(official: OfficialWeights, **asked: Any) -> SequenceModel:
    """A model in parallel form with these weights; arguments and errors as :func:`infer_config`."""
    return build_model(infer_config(official, **asked), official.weights, official.source).eval()
