"""How well weights predict with each setting: loss per string, computed once per setting and string."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from causalrn.model.config import ModelConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.torch_sessions import forward_in_batches
from causalrn.training.tasks import IGNORE, Examples
from causalrn.workflows.setting_data import SettingData

FloatArray = npt.NDArray[np.float64]

_BATCH = 64


class SettingScores:
    """Losses and right tokens of settings on the first n strings of one row of strings.

    Args:
        model: with any of the settings; it is read with each in turn.
        data: the strings.
    """

    def __init__(self, model: SequenceModel, data: SettingData) -> None:
        self._model = model
        self._data = data
        self._losses: dict[ModelConfig, FloatArray] = {}
        self._right: dict[ModelConfig, int] = {}

    def losses(self, setting: ModelConfig, count: int) -> FloatArray:
        """Summed over the target tokens of each string, in nats, [count]; infinite where the model gives NaN."""
        known = self._losses.get(setting, np.zeros(0))
        if len(known) < count:
            more, right = self._compute(setting, self._data.first(count).rows(slice(len(known), count)))
            known = self._losses[setting] = np.concatenate([known, more])
            self._right[setting] = self._right.get(setting, 0) + right
        return known[:count]

    def token_accuracy(self, setting: ModelConfig) -> float:
        """Share of the target tokens that were the most likely ones, over all strings that the setting has seen."""
        return self._right[setting] / self.target_count(len(self._losses[setting]))

    @property
    def data(self) -> str:
        """What the strings are, in words."""
        return self._data.name

    def target_count(self, count: int) -> int:
        """Target tokens of the first `count` strings."""
        return self._data.first(count).target_count

    def chance(self, count: int) -> float:
        """Loss of guessing by how often each token is a target, in nats; at most the logarithm of the vocabulary."""
        return self._data.chance(count)

    def _compute(self, setting: ModelConfig, examples: Examples) -> tuple[FloatArray, int]:
        self._model.set_config(setting)
        losses, right = [], 0
        for start in range(0, len(examples), _BATCH):
            batch = examples.rows(slice(start, start + _BATCH))
            targets = torch.from_numpy(batch.targets)
            logits = torch.from_numpy(forward_in_batches(self._model, batch.inputs))  # [B, T, V]
            loss = functional.cross_entropy(logits.mT, targets, ignore_index=IGNORE, reduction="none")
            losses.append(loss.double().sum(1))  # [B, T] -> [B]
            right += int(((logits.argmax(-1) == targets) & (targets != IGNORE)).sum())
        return torch.cat(losses).nan_to_num(nan=np.inf, posinf=np.inf).numpy(), right
