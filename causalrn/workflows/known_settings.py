"""Settings that a checkpoint folder knows of its weights, for a `convert` that reads the toolkit's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from causalrn.errors import CausalRNError, InputError
from causalrn.model.config import ModelConfig, TransformerConfig
from causalrn.model.official import OfficialWeights
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint_folder import CONFIG_NAME, WEIGHTS_NAME, CheckpointFolder, is_checkpoint
from causalrn.workflows.model_options import ModelOptions

_SETTINGS = ("heads", "norm", "norm_eps", "readout", "activation", "post_norm", "head_scale", "attention")


def find_card(source: Path, official: OfficialWeights) -> ModelCard | None:
    """The card beside a checkpoint folder's weights, if `source` is one, or its weights file, unchanged."""
    folder = source if source.is_dir() else source.parent
    if not is_checkpoint(folder) or (source != folder and source.name != WEIGHTS_NAME):
        return None
    try:
        run = CheckpointFolder.open(folder)
    except CausalRNError:
        return None
    return run.card if official.hashes.get(WEIGHTS_NAME) == run.recorded_sha256 else None


def apply_settings(official: OfficialWeights, config: ModelConfig) -> OfficialWeights:
    """The weights as the model that their configuration names: their keys may not tell the kind of attention."""
    model: str = config.architecture
    if isinstance(config, TransformerConfig) and config.attention == "linear":
        model = "linear-transformer"
    words = (*official.unwrapped, f"took its settings from {CONFIG_NAME} beside them")
    return dataclasses.replace(official, model=model, unwrapped=words)


def checked_card(own: ModelCard, found: ModelCard, by_logits: bool) -> ModelCard:
    """A checkpoint folder's card once its settings were compared with something; the task is kept.

    Args:
        by_logits: compared with recorded logits: likelihood is weaker, and does not replace what is known for sure.
    """
    sure = own.known_by is not None and own.known_by.how in ("trained here", "recorded logits")
    known_by = own.known_by if sure and not by_logits else found.known_by
    return dataclasses.replace(own, task=own.task or found.task, known_by=known_by)


def settings_of(config: ModelConfig, asked: ModelOptions) -> dict[str, Any]:
    """Fields that shapes do not tell.

    Raises:
        InputError: another value of one was asked for.
    """
    fields = {name: getattr(config, name) for name in _SETTINGS if hasattr(config, name)}
    for name, value in {**asked.shared, **asked.causalrn}.items():
        if value != fields.get(name):
            option = {"post_norm": "post_norm" if value else "no_post_norm", "norm_eps": "eps"}.get(name, name)
            raise InputError(
                f"`{option}` contradicts {CONFIG_NAME} beside these weights, whose {name} is {fields.get(name)}: leave "
                "it out, or copy the weights to a folder of their own"
            )
    return fields
