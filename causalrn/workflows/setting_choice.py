"""Which setting a conversion takes, by likelihood: what is clearly best, what was named, or none, with the reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.known_by import KnownBy
from causalrn.errors import CheckpointError
from causalrn.model.candidates import (
    FINE_OPTIONS,
    as_named,
    differing_options,
    setting_text,
    without_fine_options,
)
from causalrn.model.config import ModelConfig, TransformerConfig
from causalrn.workflows.setting_race import FineRivals, RankedSetting, Ranking

_ARGUMENTS = {"attention": "model", "norm_eps": "eps"}
"""Fields of a configuration that an argument names otherwise."""


def argument_of(field: str) -> str:
    """The argument that names a field of the configuration."""
    return _ARGUMENTS.get(field, field)


@dataclass(frozen=True)
class Asked:
    """What a user says about a file.

    Attributes:
        source: the file, for errors.
        named: fields of the configuration that are named.
        force: take what is named, whatever is found.
        named_in: the file that names it, where the user does not.
    """

    source: str
    named: Mapping[str, Any]
    force: bool = False
    named_in: str = ""

    def remedy(self, setting: ModelConfig) -> str:
        """What to do where another setting than what is named was found."""
        fields = self.contradicted(setting)
        if self.named_in:
            wrong = " and ".join(fields)
            return f"copy the weights to a folder without {self.named_in}, which says otherwise of {wrong}"
        return f"leave out {self.arguments(fields)}"

    def arguments(self, fields: Iterable[str]) -> str:
        """Fields as arguments, to be left out or named."""
        return " and ".join(f"`{self._argument(field)}`" for field in fields)

    def _argument(self, field: str) -> str:
        if field == "post_norm":
            return "post_norm` or `no_post_norm" if self.named.get(field) is None else (
                "post_norm" if self.named[field] else "no_post_norm"
            )  # fmt: skip
        return argument_of(field)

    @property
    def named_but_fine(self) -> dict[str, Any]:
        """What is named, but for what changes little."""
        return {name: value for name, value in self.named.items() if name not in FINE_OPTIONS}

    def best_fitting(self, ranking: Ranking) -> RankedSetting:
        """The best of the settings that go with what is named; there always is one."""
        return next(row for row in ranking.rows if as_named(row.setting, self.named) is not None)

    def contradicted(self, setting: ModelConfig) -> list[str]:
        """What is named otherwise than in a setting."""
        return [name for name, value in self.named.items() if getattr(setting, name) != value]


def refuse_fine_options(rivals: FineRivals, asked: Asked, usual: ModelConfig) -> KnownBy:
    """How `usual` is known, which is forced although its eps is clearly beaten.

    Raises:
        CheckpointError: it is not forced.
    """
    if not asked.force:
        raise CheckpointError(_beaten_text(rivals.asked, rivals.ranking, asked))
    return KnownBy("assumed", note=_forced_text(usual, rivals.ranking.best, rivals.ranking))


def choose_by_likelihood(
    ranking: Ranking, asked: Asked, usual: ModelConfig, fine_rivals: FineRivals | None = None
) -> tuple[ModelConfig, KnownBy]:
    """The setting to convert to, and how it is known.

    Args:
        usual: what is named, the rest as usual: where that is forced.
        fine_rivals: settings with an eps of 0, where another one is named.

    Raises:
        CheckpointError: what is named is clearly beaten, or the best ones cannot be told apart.
    """
    chosen, best = asked.best_fitting(ranking), ranking.best
    setting = as_named(chosen.setting, asked.named)
    assert setting is not None
    if chosen.beaten:
        if not asked.force:
            raise CheckpointError(_beaten_text(chosen, ranking, asked))
        return usual, KnownBy("assumed", note=_forced_text(usual, best, ranking))
    open_rows = [row for row in ranking.open if row != chosen] + _of_other_kind(chosen, fine_rivals)
    unnamed = [row for row in open_rows if as_named(row.setting, asked.named_but_fine) is not None]
    if unnamed and not asked.force:
        raise CheckpointError(_tied_text(chosen, unnamed, ranking, asked))
    if open_rows:
        fits = f"{setting_text(open_rows[0].setting)} predicts as well within the interval"
        note = f"{fits}, {'forced' if unnamed else 'the setting was named'}"
        return setting, KnownBy("assumed", ranking.data, chosen.strings, chosen.loss, note=note)
    return setting, _by_likelihood(chosen, ranking, asked)


def _of_other_kind(chosen: RankedSetting, rivals: FineRivals | None) -> list[RankedSetting]:
    """The best with an eps of 0, if that tells heads, norm and so on otherwise: a wrong eps would drag them along."""
    row = None if rivals is None else rivals.as_good
    if rivals is None or row is None:
        return []
    kinds = {without_fine_options(other.setting) for other in rivals.ranking.open}
    return [] if without_fine_options(chosen.setting) in kinds else [row]


def _by_likelihood(chosen: RankedSetting, ranking: Ranking, asked: Asked) -> KnownBy:
    names = [name for name in FINE_OPTIONS if hasattr(chosen.setting, name)]
    fine = [
        f"{argument_of(name)} {getattr(chosen.setting, name):g} was {'named' if name in asked.named else 'assumed'}"
        for name in names
    ]
    note = f"{', '.join(fine)}: likelihood does not tell it" if fine else ""
    other = next((row for row in ranking.rows if row != chosen), None)
    if other is None:
        return KnownBy("likelihood", ranking.data, chosen.strings, chosen.loss, note=note)
    margin, interval = (value if math.isfinite(value) else None for value in (other.margin, other.interval))
    text = setting_text(other.setting)
    return KnownBy("likelihood", ranking.data, other.strings, chosen.loss, text, margin, interval, note=note)


def _beaten_text(chosen: RankedSetting, ranking: Ranking, asked: Asked) -> str:
    best = ranking.best
    return (
        f"{asked.source}: with {setting_text(best.setting)} these weights predict {ranking.data} with a loss of "
        f"{best.loss:.4g} nats per token, as asked at best, with {setting_text(chosen.setting)}, {_loss(chosen)}: "
        f"{asked.remedy(best.setting)}, or use `force` to convert all the same"
    )


def _forced_text(usual: ModelConfig, best: RankedSetting, ranking: Ranking) -> str:
    found = f"{setting_text(best.setting)} predicts {ranking.data} clearly better ({best.loss:.4g} nats per token)"
    return f"{setting_text(usual)} was forced, although {found}"


def _loss(row: RankedSetting) -> str:
    if row.margin == float("inf"):
        return "with none that is finite"
    return f"{row.loss:.4g} ({row.margin:.2g} ± {row.interval:.1g} more)"


def _tied_text(chosen: RankedSetting, rivals: Sequence[RankedSetting], ranking: Ranking, asked: Asked) -> str:
    rival = rivals[0]
    differing = dict.fromkeys(n for row in rivals for n in differing_options(chosen.setting, row.setting))
    open_options = [name for name in differing if name not in FINE_OPTIONS]
    more = f" (and {len(rivals) - 1} more)" if len(rivals) > 1 else ""
    margin, interval = max(rival.margin, chosen.margin), max(rival.interval, chosen.interval)
    early = "; weights that were not trained to the end may do that much better with a wrong setting"
    return (
        f"{asked.source}: {setting_text(chosen.setting)} and {setting_text(rival.setting)}{more} cannot be told apart "
        f"on {chosen.strings:,} sequences of {ranking.data}: {margin:.2g} ± {interval:.1g} nats per token"
        f"{early if rival.allowance > rival.interval else ''}: name {asked.arguments(open_options)}, give a "
        "`reference`, or more `samples`"
    )


def assume(setting: ModelConfig, asked: Asked, reason: str) -> KnownBy:
    """How a setting is known where nothing can be found out.

    Args:
        setting: what is named, the rest as usual.
        reason: why nothing can be found out.

    Raises:
        CheckpointError: something is not named that cannot be guessed.
    """
    needed = "heads" if isinstance(setting, TransformerConfig) else "readout"
    if needed not in asked.named:
        raise CheckpointError(f"{asked.source}: {reason}: name its `{needed}`, or give a `reference`")
    named = {f.name for f in dataclasses.fields(setting)} & asked.named.keys()
    usual = setting_text(setting)
    words = ", ".join(sorted(named - FINE_OPTIONS.keys()))
    return KnownBy("assumed", note=f"{usual}, of which {words} was named; {reason}")


def reason_of(ranking: Ranking | None) -> str:
    """Why likelihood settles nothing; empty where it may."""
    if ranking is None:
        return "there is nothing to try it on (`text` or `tokens` would be)"
    if ranking.better_than_chance:
        return ""
    best = ranking.best
    return (
        f"no setting predicts {ranking.data} better than chance (loss {best.loss:.3g}, chance {ranking.chance:.3g} "
        "nats per token): the model was trained on something else, or not at all"
    )
