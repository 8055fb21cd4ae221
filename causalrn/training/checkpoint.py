"""Checkpoints: a model's weights as safetensors beside its configuration."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from causalrn.bundle.disk.folders import written_folder
from causalrn.bundle.disk.tensor_files import check_tensor_file
from causalrn.errors import CheckpointError
from causalrn.model.folding import FoldedWeights, fold
from causalrn.model.sequence_model import SequenceModel, build_model, check_shapes
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, WEIGHTS_NAME, CheckpointFolder


@dataclass(frozen=True)
class Checkpoint:
    """A loaded RUN: the model in parallel form, its card, and the hash of its weights file."""

    model: SequenceModel
    card: ModelCard
    sha256: str

    @functools.cached_property
    def folded(self) -> FoldedWeights:
        """The weights of the cell, float64; folded once for all who export or check it."""
        return fold(self.model)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a RUN folder; the model comes on the CPU, float32, in evaluation mode.

    Raises:
        CheckpointError: a file is missing or corrupt, weights do not fit the configuration or are not finite.
    """
    run = CheckpointFolder.open(path)
    sha256 = run.sha256
    shapes = check_tensor_file(run.weights, "safetensors file", "copy the RUN again", CheckpointError)
    check_shapes(run.card.block_config, shapes, str(run.weights))
    try:
        weights = safetensors.torch.load_file(run.weights)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{run.weights}: corrupt safetensors file ({error})") from None
    return Checkpoint(build_model(run.card.block_config, weights, str(run.weights)).eval(), run.card, sha256)


def save_checkpoint(
    path: Path, model: SequenceModel, card: ModelCard, origin: dict[str, Any], overwrite: bool = False
) -> CheckpointFolder:
    """Write a RUN folder whole or not at all; an earlier RUN there is replaced.

    Args:
        overwrite: replace one with files that were added or changed, too.
        origin: where the weights come from (training settings, or the converted file), for people and `inspect`.
    """
    with written_folder(path, CHECKPOINT_MARKER, overwrite) as folder:
        save_weights(folder / WEIGHTS_NAME, model)
        CheckpointFolder(folder, card, origin).write_config()
    return CheckpointFolder.open(path)


def save_weights(path: Path, model: SequenceModel) -> None:
    """Write the weights, float32, as safetensors."""
    weights = {name: tensor.detach().cpu().float().contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))  # not save_file: a full disk has to be an OSError


def write_training_state(path: Path, tensors: dict[str, torch.Tensor], plan: dict[str, Any]) -> None:
    """Write what resuming a training needs: tensors, and the plan as metadata."""
    path.write_bytes(safetensors.torch.save(tensors, metadata={"plan": json.dumps(plan)}))


def read_training_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read :func:`write_training_state`'s file back: tensors and plan.

    Raises:
        CheckpointError: the file is missing or corrupt.
    """
    if not path.exists():
        raise CheckpointError(f"{path.parent}: no {path.name} in it: only an interrupted training can be resumed")
    check_tensor_file(path, "training state", "train anew with `overwrite`", CheckpointError)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            plan = json.loads((file.metadata() or {})["plan"])
            return {name: file.get_tensor(name) for name in file.keys()}, plan  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: corrupt training state ({error}): train anew with `overwrite`") from None
