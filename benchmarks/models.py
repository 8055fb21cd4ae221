"""Models for benchmarks: weights of unit gain and biases that are not zero, so that all blocks count."""

from __future__ import annotations

import torch

from causalrn.model.config import ModelConfig
from causalrn.model.sequence_model import SequenceModel


def unit_gain_model(config: ModelConfig, seed: int = 0) -> SequenceModel:
    """The same weights for the same configuration and seed."""
    model = SequenceModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3
            parameter.normal_(0, std, generator=generator)
    return model.eval()
