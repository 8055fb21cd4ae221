"""Which setting predicts best: a race on the same strings. Those that are clearly beaten leave, the others go on.

Two settings are compared string by string: the margin is the mean of the differences of their losses per target token,
its interval a paired Student t interval of 4 standard deviations (99.99 %, for there are many comparisons). A setting
is beaten where the margin is beyond the interval.

That the right setting has the smallest loss holds for weights that were trained well with it. Weights that were hardly
trained can be better off with a slightly wrong one, whatever the number of strings: models that were stopped early by
up to 0.06 nats where the loss was three quarters of chance, 0.003 at a half, and 0.5 % of the loss at a quarter
(docs/converting.md). So a margin has to be beyond an allowance, too, which is a multiple of those.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from causalrn.model.candidates import with_other_heads
from causalrn.model.config import ModelConfig
from causalrn.workflows.setting_scores import SettingScores

FIRST_STRINGS, LEAST_STRINGS = 8, 64
_MORE_STRINGS = 256
_DEVIATIONS = 4.0
_ALLOWED_SHARE, _ALLOWED_EARLY, _POWER = 0.01, 0.4, 6
"""Of the loss; and of chance, for a loss near it: this falls with so high a power of the loss."""
_FINE_SHARE = 0.25
"""Of the loss, between values of what changes little: an eps of 0 does better by up to 6 % with weights that were
trained with another one, while a wrong eps that matters multiplies the loss."""
_WIDENED, _CALLED_BACK = 6, 8
"""How many settings are varied once the first strings are through; how many that left early are tried again on as many
strings as the winner."""

Advance = Callable[[int, str], object]


@dataclass(frozen=True)
class RankedSetting:
    """A setting in the ranking.

    Attributes:
        setting: the configuration.
        loss: nats per target token, that of the best plus the margin.
        margin: nats per target token behind the best, on the strings that it was tried on; 0 for the best.
        interval: half width of the margin's confidence interval.
        allowance: what a wrong setting may be better by, for the weights were not trained to the end.
        strings: how many it was tried on.
        token_accuracy: share of those strings' target tokens that were the most likely ones, 0 to 1.
    """

    setting: ModelConfig
    loss: float
    margin: float
    interval: float
    allowance: float
    strings: int
    token_accuracy: float

    @property
    def beaten(self) -> bool:
        """Whether the best is clearly better."""
        return not self.margin <= max(self.interval, self.allowance)


@dataclass(frozen=True)
class Ranking:
    """Settings, the best first, those that are beaten last.

    Attributes:
        rows: every setting that was tried.
        data: what they were compared on, in words.
        chance: loss of guessing by the tokens' frequencies, in nats per target token.
        interval: half width of the confidence interval of the best one's loss.
    """

    rows: tuple[RankedSetting, ...]
    data: str
    chance: float
    interval: float

    @property
    def best(self) -> RankedSetting:
        """The one with the smallest loss."""
        return self.rows[0]

    @property
    def open(self) -> tuple[RankedSetting, ...]:
        """The best, and all that are not clearly beaten by it."""
        return tuple(row for row in self.rows if not row.beaten)

    @property
    def better_than_chance(self) -> bool:
        """Whether the best predicts anything: else its being best says nothing."""
        return self.best.loss + self.interval < self.chance


@dataclass(frozen=True)
class FineRivals:
    """Settings with the default of what changes little (an eps of 0), where another value is named.

    Attributes:
        ranking: those.
        best: the best with the value that is named, beside the best of those.
        asked: the best that goes with all that is named, likewise.
    """

    ranking: Ranking
    best: RankedSetting
    asked: RankedSetting

    @property
    def beat_it(self) -> bool:
        """Whether the value that is named is clearly beaten."""
        return self.ranking.better_than_chance and self.best.beaten

    @property
    def as_good(self) -> RankedSetting | None:
        """The best of those, where the value that is named is not clearly better: with the margin between the two."""
        row, best = self.best, self.ranking.best
        if not row.margin >= -max(row.interval, row.allowance):
            return None
        return dataclasses.replace(best, margin=abs(row.margin), interval=row.interval, allowance=row.allowance)


def half_width(differences: npt.NDArray[np.float64]) -> float:
    """Half width of the t interval of a mean; infinite for a single value, and where one is not finite.

    The quantile is Wallace's approximation to Student's t, within 5 % from 4 values on.

    Example:
        >>> round(half_width(np.array([1.0, 2.0] * 50)), 3)
        0.21
    """
    freedom = len(differences) - 1
    if freedom < 1 or not np.isfinite(differences).all():
        return math.inf
    scaled = _DEVIATIONS * (8 * freedom + 3) / (8 * freedom + 1)
    exponent = min(scaled**2 / freedom, 500.0)
    quantile = math.sqrt(freedom * math.expm1(exponent))
    return quantile * float(differences.std(ddof=1)) / math.sqrt(len(differences))


def predicts(scores: SettingScores, setting: ModelConfig, count: int) -> bool:
    """Whether a setting's loss on the first `count` strings is clearly below chance."""
    losses = scores.losses(setting, count) * (count / scores.target_count(count))
    return float(losses.mean()) + half_width(losses) < scores.chance(count)


class Race:
    """Settings on more and more strings.

    Args:
        scores: their losses.
        most: strings at most.
        advance: called with how many settings were tried, and what is done.
    """

    def __init__(self, scores: SettingScores, most: int, advance: Advance) -> None:
        self._scores = scores
        self._most = most
        self._advance = advance
        self._strings: dict[ModelConfig, int] = {}

    def run(self, settings: Iterable[ModelConfig]) -> Ranking:
        """Try settings until one is left, or there are no more strings.

        More heads are tried for the best ones only.
        """
        count = min(FIRST_STRINGS, self._most)
        left = self._leave(settings, count)
        wider = [other for setting in left[:_WIDENED] for other in with_other_heads(setting)]
        left = self._go_on(self._leave(dict.fromkeys((*left, *wider)), count), count)
        count = self._strings[left[0]]
        nearest = sorted(self._strings, key=lambda setting: self._margin(setting, left[0], self._strings[setting]))
        left = self._leave(dict.fromkeys((*left, *nearest[:_CALLED_BACK])), count)  # too few strings may have misled
        return self._ranking(self._go_on(left, count))

    def beside(self, setting: ModelConfig, other: ModelConfig, count: int) -> RankedSetting:
        """A setting beside one with another value of what changes little, on the first `count` strings."""
        margin, interval = self._margin(setting, other, count)
        allowance = self._allowance(other, count, _FINE_SHARE)
        accuracy = self._scores.token_accuracy(setting)
        return RankedSetting(setting, self._mean(other, count) + margin, margin, interval, allowance, count, accuracy)

    def _go_on(self, left: tuple[ModelConfig, ...], count: int) -> tuple[ModelConfig, ...]:
        while count < self._most and (count < LEAST_STRINGS or not self._is_settled(left, count)):
            count = min(2 * count, self._most)
            left = self._leave(left, count)
        return left

    def _is_settled(self, left: tuple[ModelConfig, ...], count: int) -> bool:
        """One is left; or all intervals are within the allowance: more strings would not settle it."""
        allowance = self._allowance(left[0], count)
        narrow = all(self._margin(setting, left[0], count)[1] < allowance for setting in left)
        return len(left) == 1 or (narrow and count >= _MORE_STRINGS)

    def _leave(self, settings: Iterable[ModelConfig], count: int) -> tuple[ModelConfig, ...]:
        """Those that are not clearly beaten on the first `count` strings, the best first."""
        settings = tuple(settings)
        for setting in settings:
            self._scores.losses(setting, count)
            self._strings[setting] = count
            self._advance(1, f"{count:,} strings, {len(settings)} settings")
        ranked = sorted(settings, key=lambda setting: self._mean(setting, count))
        return tuple(setting for setting in ranked if not self._is_beaten(setting, ranked[0], count))

    def _is_beaten(self, setting: ModelConfig, best: ModelConfig, count: int) -> bool:
        margin, interval = self._margin(setting, best, count)
        if count < LEAST_STRINGS and margin <= self._mean(best, count):  # a few strings may lack the rare hard ones
            return False
        return not margin <= max(interval, self._allowance(best, count))

    def _allowance(self, best: ModelConfig, count: int, share: float = _ALLOWED_SHARE) -> float:
        chance = self._scores.chance(count)
        loss = min(self._mean(best, count), chance)
        if not chance > 0:  # the same token everywhere
            return share * loss
        return share * loss + _ALLOWED_EARLY * chance * (loss / chance) ** _POWER

    def _mean(self, setting: ModelConfig, count: int) -> float:
        return float(self._scores.losses(setting, count).sum()) / self._scores.target_count(count)

    def _margin(self, setting: ModelConfig, best: ModelConfig, count: int) -> tuple[float, float]:
        if setting == best:
            return 0.0, 0.0
        losses, least = self._scores.losses(setting, count), self._scores.losses(best, count)
        if not np.isfinite(losses).all():
            return math.inf, 0.0
        if not np.isfinite(least).all():
            return 0.0, 0.0
        differences = (losses - least) * (count / self._scores.target_count(count))
        return float(differences.mean()), half_width(differences)

    def _ranking(self, left: tuple[ModelConfig, ...]) -> Ranking:
        best, scores = left[0], self._scores
        count = self._strings[best]
        loss = self._mean(best, count)
        rows = []
        for setting, strings in self._strings.items():
            margin, interval = self._margin(setting, best, strings)
            allowance = self._allowance(best, strings)
            accuracy = scores.token_accuracy(setting)
            rows.append(RankedSetting(setting, loss + margin, margin, interval, allowance, strings, accuracy))
        rows.sort(key=lambda row: (row.beaten, row.margin))
        spread = half_width(scores.losses(best, count) * (count / scores.target_count(count)))
        return Ranking(tuple(rows), scores.data, scores.chance(count), spread)
