"""What a conversion tries: every setting that shapes allow, on a task or against recorded logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.known_by import KnownBy
from causalrn.errors import CheckpointError, ConfigError
from causalrn.model.candidates import FINE_OPTIONS, allowed_settings, without_fine_options
from causalrn.model.config import ModelConfig
from causalrn.model.official import OfficialWeights, build_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Advance, Progress
from causalrn.training.tasks import Task
from causalrn.workflows.recorded_logits import LogitsMatch, RecordedLogits, choose_by_logits
from causalrn.workflows.setting_choice import Asked, assume, choose_by_likelihood, reason_of, refuse_fine_options
from causalrn.workflows.setting_data import DataOptions, SettingData
from causalrn.workflows.setting_race import LEAST_STRINGS, FineRivals, Race, Ranking, predicts
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
    def of(
        cls, official: OfficialWeights, asked: Asked, data: DataOptions, progress: Progress, *, tried: bool = False
    ) -> SettingTrial:
        """Weights, read with what is named and the usual rest to begin with.

        Args:
            tried: whether other settings are: the usual ones then need not be possible, which they are not for a
                hidden width of 2.
        """
        default = {"readout": "exact"} if official.model == "causalrn" else {}
        try:
            model = build_official(official, **{**default, **asked.named})
        except ConfigError:
            if not tried or official.model != "causalrn" or "post_norm" in asked.named:
                raise
            model = build_official(official, **{**default, "post_norm": False, **asked.named})
        told = ("attention",) if official.model == "linear-transformer" else ()
        return cls(model, model.config, told, asked, data.data_for(model.config), progress)

    def by_likelihood(self, most: int) -> tuple[ModelConfig, KnownBy, Ranking | None]:
        """The setting with clearly the smallest loss on `most` sequences, or what is named; with the ranking, if any.

        Raises:
            CheckpointError: what is named is clearly beaten, or nothing settles what is not named.
        """
        if self.data is None:
            return self.usual, assume(self.usual, self.asked, reason_of(None)), None
        ranking, rivals = self._rank(self.data, most)
        if not math.isfinite(ranking.best.loss):
            raise CheckpointError(
                f"{self.asked.source}: no setting gives finite logits: the weights are lost or too large"
            )
        if rivals is not None and rivals.beat_it:
            return self.usual, refuse_fine_options(rivals, self.asked, self.usual), ranking
        if reason := reason_of(ranking):
            return self.usual, assume(self.usual, self.asked, reason), ranking
        return *choose_by_likelihood(ranking, self.asked, self.usual, rivals), ranking

    def by_logits(self, recorded: RecordedLogits) -> tuple[ModelConfig, KnownBy]:
        """The setting that gives recorded logits.

        Raises:
            CheckpointError: none does, or another one than what is named.
        """
        settings = (*self._settings(), *self._usual_settings())
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

    def _rank(self, data: SettingData, most: int) -> tuple[Ranking, FineRivals | None]:
        """Settings with the eps that is named, or an eps of 0; and with that, too, where another one is named."""
        settings, usual = self._settings(), self._usual_settings()
        most = min(most, data.available or most)
        scores, count = SettingScores(self.model, data), len(settings) + len(usual)
        with self.progress("settings", count) as advance:
            once = _once(advance, count)
            ranking = Race(scores, most, once).run(settings)
            if not usual:
                return ranking, None
            race = Race(scores, most, once)
            rivals = race.run(usual)
        best, strings = rivals.best.setting, max(ranking.best.strings, rivals.best.strings)
        rows = (ranking.best, self.asked.best_fitting(ranking))
        return ranking, FineRivals(rivals, *(race.beside(row.setting, best, strings) for row in rows))

    def _settings(self) -> tuple[ModelConfig, ...]:
        return allowed_settings(self.usual, self.asked.named, self.told)

    def _usual_settings(self) -> tuple[ModelConfig, ...]:
        """With the default of what changes little, where something else is named: else a wrong name went unnoticed."""
        usual = without_fine_options(self.usual)
        if all(getattr(self.usual, name) == getattr(usual, name) for name in FINE_OPTIONS):
            return ()
        return allowed_settings(usual, self.asked.named_but_fine, self.told)


def _once(advance: Advance, total: int) -> Any:
    """Count the first `total` units only: what is tried again is shown by its note."""
    left = [total]

    def count(units: int, note: str) -> None:
        advance(min(units, left[0]), note)
        left[0] -= min(units, left[0])

    return count
