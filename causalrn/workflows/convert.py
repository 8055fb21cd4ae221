"""Conversion of the paper authors' weights: infer sizes, settle what shapes do not tell, save."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.alphabet import Alphabet, guess_alphabet
from causalrn.bundle.files import as_path, check_replaceable, sha256_file
from causalrn.bundle.known_by import KnownBy
from causalrn.errors import InputError
from causalrn.model.candidates import allowed_settings
from causalrn.model.config import ModelConfig
from causalrn.model.official import OfficialWeights, build_official, read_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Advance, Progress, no_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, CheckpointFolder, is_checkpoint
from causalrn.training.tasks import TASKS, Task
from causalrn.workflows.arguments import (
    LARGEST_SEED,
    PathLike,
    flag,
    optional_choice,
    optional_path,
    optional_whole,
    whole_number,
)
from causalrn.workflows.model_options import MODELS, ModelOptions
from causalrn.workflows.recorded_logits import LogitsMatch, RecordedLogits, choose_by_logits, read_recorded_logits
from causalrn.workflows.setting_choice import Asked, assume, choose_by_likelihood, reason_of
from causalrn.workflows.setting_data import DataOptions, SettingData
from causalrn.workflows.setting_race import LEAST_STRINGS, Race, Ranking, predicts
from causalrn.workflows.setting_scores import SettingScores


@dataclass(frozen=True)
class ConvertResult:
    """A conversion; it stands for its checkpoint folder wherever a path is wanted.

    Attributes:
        run: the checkpoint folder.
        source: the file that was read.
        ranking: settings by their loss; None where there was nothing to rank them on, or recorded logits settled it.
        task: that the model does better than chance.
    """

    run: CheckpointFolder
    source: Path
    ranking: Ranking | None
    task: Task | None

    def __fspath__(self) -> str:
        """Path of the checkpoint folder."""
        return os.fspath(self.run.path)

    @property
    def known_by(self) -> KnownBy:
        """How it is known that the settings are those that the weights were trained with."""
        assert self.run.card.known_by is not None
        return self.run.card.known_by

    @property
    def choice(self) -> str:
        """What `accuracies` compares: "readout" or "attention"."""
        return "readout" if hasattr(self.run.card.config, "readout") else "attention"

    @property
    def accuracies(self) -> Mapping[str, float] | None:
        """Share of target tokens right, 0 to 1, by readout or attention, the rest at its best; None unranked."""
        if self.ranking is None:
            return None
        rows = reversed(self.ranking.rows)
        return {getattr(row.setting, self.choice): row.token_accuracy for row in rows}


def convert(
    weights: PathLike,
    *,
    output: PathLike,
    readout: str | None = None,
    model: str | None = None,
    heads: int | None = None,
    norm: str | None = None,
    activation: str | None = None,
    post_norm: bool = False,
    no_post_norm: bool = False,
    head_scale: str | None = None,
    reference: PathLike | None = None,
    task: str | None = None,
    length: int | None = None,
    text: PathLike | None = None,
    tokens: PathLike | None = None,
    samples: int = 2000,
    force: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ConvertResult:
    """Turn weights saved by the paper's training script into a checkpoint folder.

    Sizes come from the shapes. What shapes do not tell (readout, heads, norm, activation, post-norm, head scale, kind
    of attention) is the setting that gives the logits in `reference`, or else the one with clearly the smallest loss on
    a task (docs/converting.md).

    Args:
        weights: a state dict, .pth as torch.save wrote it or .safetensors.
        output: folder to write.
        readout, heads, norm, activation, head_scale: what the user knows; refused where another one is clearly better.
        model: "causalrn", "transformer" or "linear-transformer"; None takes what the keys say.
        post_norm, no_post_norm: that there is a norm after the readout, or none; neither if that is not known.
        reference: .npz or .safetensors with `tokens` [B, T] and `logits` [B, T, V], recorded where it was trained.
        task: what to compare settings on, "copy" (the default for 29 tokens), "copy-mixed", "lookup" or "text".
        length: letters per string, or bytes per piece of a text; None takes what the positions allow.
        text: the file whose bytes a text model predicts.
        tokens: .npy file of token ids [N, T] that the model predicts, for other vocabularies.
        samples: sequences to compare settings on at most; no more are taken than it needs.
        force: convert with what is named even if something else is clearly better, or nothing is.
        seed: of random strings.
        progress: shows progress.

    Raises:
        CheckpointError: the file does not fit, what is named is clearly beaten, or nothing settles what is not named.
        InputError, ConfigError: arguments that contradict each other or the file.

    Example:
        >>> run = convert("model.pth", output="run", reference="logits.npz")  # doctest: +SKIP
    """
    source, folder = as_path(weights, "weights"), as_path(output, "output")
    options = ModelOptions.of(
        readout=readout,
        activation=activation,
        no_post_norm=no_post_norm,
        post_norm=post_norm,
        head_scale=head_scale,
        heads=heads,
        norm=norm,
    )
    kind = optional_choice(model, "model", MODELS)
    data_options = DataOptions(
        optional_choice(task, "task", TASKS),
        optional_whole(length, "length", 1),
        optional_path(text, "text"),
        optional_path(tokens, "tokens"),
        whole_number(seed, "seed", 0, LARGEST_SEED),
    )
    count, recorded = whole_number(samples, "samples", 2), optional_path(reference, "reference")
    flag(force, "force")
    check_replaceable(folder, CHECKPOINT_MARKER)
    if is_checkpoint(folder):
        raise InputError(f"{folder} holds an earlier RUN: name another output, or delete it first")
    official = read_official(source)
    named = _named(_as_asked(official, kind), options, kind)
    trial = _Trial.of(official, Asked(str(source), named, force), data_options, progress)
    if recorded is None:
        setting, known_by, ranking = trial.by_likelihood(count)
    else:
        setting, known_by = trial.by_logits(read_recorded_logits(recorded, trial.usual))
        ranking = None
    found = trial.task_of(setting, ranking)
    trial.model.set_config(setting)
    alphabet = guess_alphabet(setting.vocabulary)
    card = ModelCard(setting, None if alphabet is None else Alphabet(alphabet), found, known_by)
    origin = {"converted": {"file": source.name, "sha256": sha256_file(source)}}
    return ConvertResult(save_checkpoint(folder, trial.model, card, origin), source, ranking, found)


def _named(official: OfficialWeights, options: ModelOptions, kind: str | None) -> dict[str, Any]:
    """Fields that the user names, or that the keys tell."""
    _, fields = options.fields_for(official.model, f"{official.source} (a {official.model})")
    if official.model == "transformer" and kind is None:  # without its buffer a Linear Transformer looks like this, too
        del fields["attention"]
    return fields


def _as_asked(official: OfficialWeights, model: str | None) -> OfficialWeights:
    """The weights as the model that the user names: without its buffer a Linear Transformer looks like the other."""
    if model is None or model == official.model:
        return official
    if model != "linear-transformer" or official.model != "transformer":
        raise InputError(
            f"`model` {model} and {official.source} contradict each other: its keys are a {official.model}'s"
        )
    return dataclasses.replace(official, model=model)


@dataclass(frozen=True)
class _Trial:
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
    def of(cls, official: OfficialWeights, asked: Asked, data: DataOptions, progress: Progress) -> _Trial:
        default = {"readout": "exact"} if official.model == "causalrn" else {}
        model = build_official(official, **{**default, **asked.named})
        told = ("attention",) if official.model == "linear-transformer" else ()
        return cls(model, model.config, told, asked, data.data_for(model.config), progress)

    def by_likelihood(self, most: int) -> tuple[ModelConfig, KnownBy, Ranking | None]:
        ranking = None if self.data is None else self._rank(self.data, most)
        reason = reason_of(ranking)
        if reason or ranking is None:
            return self.usual, assume(self.usual, self.asked, reason), ranking
        return *choose_by_likelihood(ranking, self.asked, self.usual), ranking

    def by_logits(self, recorded: RecordedLogits) -> tuple[ModelConfig, KnownBy]:
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
