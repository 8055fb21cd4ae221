"""What a conversion tries: every setting that shapes allow, on a task or against recorded logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from causalrn.bundle.known_by import KnownBy
from causalrn.model.candidates import allowed_settings
from causalrn.model.config import ModelConfig
from causalrn.model.official import OfficialWeights, build_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Advance, Progress
from causalrn.training.tasks import Task
from causalrn.workflows.recorded_logits import LogitsMatch, RecordedLogits, choose_by_logits
from causalrn.workflows.setting_choice import Asked, assume, choose_by_likelihood, reason_of
from causalrn.workflows.setting_data import DataOptions, SettingData
from causalrn.workflows.setting_race import LEAST_STRINGS, Race, Ranking, predicts
from causalrn.workflows.setting_scores import SettingScores


@dataclass(frozen=True)
class SettingTrial:
    """Weights, and what is tried with them.

    Attributes:
        model: the weights; it is read with one setting after the other.
        usual: what is named, the rest as usual.
        told: fields that the file's keys tell.
        data: what settings are compared on, if anything.
    """

    model: SequenceModel
    usual: ModelConfig
    told: tuple[str, ...]
    asked: Asked
    data: SettingData | None
    progress: Progress

    @classmethod
    def of(cls, official: OfficialWeights, asked: Asked, data: DataOptions, progress: Progress) -> SettingTrial:
        """Weights, read with what is named and the usual rest to begin with."""
        default = {"readout": "exact"} if official.model == "causalrn" else {}
        model = build_official(official, **{**default, **asked.named})
        told = ("attention",) if official.model == "linear-transformer" else ()
        return cls(model, model.config, told, asked, data.data_for(model.config), progress)

    def by_likelihood(self, most: int) -> tuple[ModelConfig, KnownBy, Ranking | None]:
        """The setting with clearly the smallest loss on `most` sequences, or what is named; with the ranking, if any.

        Raises:
            CheckpointError: what is named is clearly beaten, or nothing settles what is not named.
        """
        ranking = None if self.data is None else self._rank(self.data, most)
        reason = reason_of(ranking)
        if reason or ranking is None:
            return self.usual, assume(self.usual, self.asked, reason), ranking
        return *choose_by_likelihood(ranking, self.asked, self.usual), ranking

    def by_logits(self, recorded: RecordedLogits) -> tuple[ModelConfig, KnownBy]:
        """The setting that gives recorded logits.

        Raises:
            CheckpointError: none does, or another one than what is named.
        """
        settings = self._settings()
        with self.progress("settings", len(settings)) as advance:
            match = LogitsMatch(self.model, recorded, _once(advance, len(settings)))
            near = match.nearest(settings)
        return choose_by_logits(match, near, recorded, self.asked, self.usual)

    def task_of(self, setting: ModelConfig, ranking: Ranking | None) -> Task | None:
        """The task, if the model with this setting does it better than chance."""
        if self.data is None or self.data.task is None:
            return None
        if ranking is None:
            count = min(LEAST_STRINGS, self.data.available or LEAST_STRINGS)
            known = predicts(SettingScores(self.model, self.data), setting, count)
        else:
            known = ranking.better_than_chance
        return self.data.task if known else None

    def _rank(self, data: SettingData, most: int) -> Ranking:
        settings = self._settings()
        most = min(most, data.available or most)
        with self.progress("settings", len(settings)) as advance:
            return Race(SettingScores(self.model, data), most, _once(advance, len(settings))).run(settings)

    def _settings(self) -> tuple[ModelConfig, ...]:
        return allowed_settings(self.usual, self.asked.named, self.told)


def _once(advance: Advance, total: int) -> Any:
    """Count the first `total` units only: what is tried again is shown by its note."""
    left = [total]

    def count(units: int, note: str) -> None:
        advance(min(units, left[0]), note)
        left[0] -= min(units, left[0])

    return count
