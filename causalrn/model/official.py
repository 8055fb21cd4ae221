"""Checkpoints of the paper authors' code: read, understood from their shapes, and turned into our names.

The official training script saves ``torch.save(model.state_dict())``; a compiled model's keys begin with
``_orig_mod.``. Keys tell a CausalRN from a Transformer, and a buffer tells a Linear Transformer. Shapes tell the
vocabulary, widths, number of blocks, capacity and biases. They do not tell the readout, heads, norm, activation or
post-norm: those are asked for.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from causalrn.errors import CheckpointError, ConfigError
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel, load_weights

_COMPILED_PREFIX = "_orig_mod."
_BUFFERS = re.compile(r"pre_block\.pos|.*\.causal_mask")
_LINEAR_BUFFER = re.compile(r".*\.attn\.causal_mask")
_KIND = re.compile(r"blocks\.\d+\.(?:(attn|mlp)\.)?fc_")
_NAMES = (
    (re.compile(r"pre_block\.(wte|wpe)\.weight"), r"\1.weight"),
    (re.compile(r"block_all\.(\d+)\.(fc_[123])\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"block_all\.(\d+)\.(attn|mlp)\.(fc_[12])\.(weight|bias)"), r"blocks.\1.\2.\3.\4"),
    (re.compile(r"post_block\.fc_cls\.(weight|bias)"), r"head.\1"),
)


@dataclass(frozen=True)
class OfficialWeights:
    """A state dict of the official code under our names.

    Attributes:
        source: where it came from, for errors.
        weights: float32.
        model: "causalrn", "transformer" or "linear-transformer", as the keys say.
    """

    source: str
    weights: dict[str, Tensor]
    model: str


def read_official(path: Path) -> OfficialWeights:
    """Read a state dict saved by the official code (.pth, .pt) or as .safetensors; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, corrupt, holds something else, or a model of another kind.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: name the weights that the training script saved")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return rename_official(state, str(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: corrupt safetensors file ({error})") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds more than weights, or is no torch file: save it with torch.save(model.state_dict(), ...)"
        ) from None
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated torch file: copy it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds no state dict: save it with torch.save(model.state_dict(), ...)")
    return state


def rename_official(state: Mapping[str, Any], source: str) -> OfficialWeights:
    """Translate official keys to ours; buffers that are no weights are left out. `source` is named in errors.

    Raises:
        CheckpointError: a key that none of the paper's models has, or a value that is no float tensor.
    """
    weights = {}
    for key, value in state.items():
        name = key.removeprefix(_COMPILED_PREFIX)
        if _BUFFERS.fullmatch(name):
            continue
        ours = next((rule.sub(to, name) for rule, to in _NAMES if rule.fullmatch(name)), None)
        if ours is None:
            raise CheckpointError(f"{source}: {key} is no weight of a Causal Relation Network or its baselines")
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and value.ndim > 0
        if not plain or not value.is_floating_point():
            raise CheckpointError(f"{source}: {key} is no dense floating-point tensor")
        if ours in weights:
            raise CheckpointError(f"{source}: holds {name} twice, with and without {_COMPILED_PREFIX}: remove one")
        weights[ours] = value.float()
    kinds = {match[1] or "causalrn" for name in weights if (match := _KIND.match(name))}
    if not kinds:
        raise CheckpointError(f"{source}: no blocks in it: not the state dict of one of the paper's models")
    if "causalrn" in kinds and len(kinds) > 1:
        raise CheckpointError(f"{source}: mixes a CausalRN's weights with a Transformer's: save one model")
    model = "causalrn" if "causalrn" in kinds else "transformer"
    if model == "transformer" and any(_LINEAR_BUFFER.fullmatch(key.removeprefix(_COMPILED_PREFIX)) for key in state):
        model = "linear-transformer"
    return OfficialWeights(source, weights, model)


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
    model = SequenceModel(infer_config(official, **asked))
    load_weights(model, official.weights, official.source)
    return model.eval()
