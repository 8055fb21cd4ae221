"""Conversion of the paper authors' weights: infer sizes, settle what shapes do not tell, save."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.alphabet import Alphabet, guess_alphabet
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.disk.folders import check_replaceable
from causalrn.bundle.known_by import KnownBy
from causalrn.errors import CheckpointError, InputError
from causalrn.model.official import OfficialWeights, build_official, read_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, CONFIG_NAME, CheckpointFolder, is_checkpoint
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
from causalrn.workflows.known_settings import apply_settings, checked_card, find_card, settings_of
from causalrn.workflows.model_options import MODELS, ModelOptions
from causalrn.workflows.recorded_logits import read_recorded_logits
from causalrn.workflows.setting_choice import Asked
from causalrn.workflows.setting_data import DataOptions
from causalrn.workflows.setting_race import Ranking
from causalrn.workflows.setting_trial import SettingTrial

_SAMPLES = 2000


@dataclass(frozen=True)
class ConvertResult:
    """A conversion; it stands for its checkpoint folder wherever a path is wanted.

    Attributes:
        run: the checkpoint folder.
        source: the file that was read.
        ranking: settings by their loss; None where there was nothing to rank them on, or recorded logits settled it.
        task: that the model does better than chance.
        unwrapped: what had to be taken off or out to find the weights, in words.
    """

    run: CheckpointFolder
    source: Path
    ranking: Ranking | None
    task: Task | None
    unwrapped: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        """Path of the checkpoint folder."""
        return os.fspath(self.run.path)

    @property
    def known_by(self) -> KnownBy | None:
        """How it is known that the weights were trained with these settings; None where nobody recorded it."""
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
    eps: float | None = None,
    activation: str | None = None,
    post_norm: bool = False,
    no_post_norm: bool = False,
    head_scale: str | None = None,
    reference: PathLike | None = None,
    task: str | None = None,
    length: int | None = None,
    text: PathLike | None = None,
    tokens: PathLike | None = None,
    samples: int | None = None,
    force: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ConvertResult:
    """Turn weights saved by the paper's training script, or by one of your own, into a checkpoint folder.

    Sizes come from the shapes. What shapes do not tell (readout, heads, norm and its eps, activation, post-norm, head
    scale, kind of attention) is the setting that gives the logits in `reference`, or else the one with clearly the
    smallest loss on a task (docs/converting.md).

    Args:
        weights: what torch.save or safetensors wrote, whatever is around the state dict; an index of shards; a folder
            of shards, or a checkpoint folder, whose settings are known: `reference` and data check them.
        output: folder to write.
        readout, heads, norm, activation, head_scale: what the user knows; refused where another one is clearly better.
        eps: `normalization_eps` of the official code, which every norm adds beside its root.
        model: "causalrn", "transformer" or "linear-transformer"; None takes what the keys say.
        post_norm, no_post_norm: that there is a norm after the readout, or none; neither if that is not known.
        reference: .npz or .safetensors with `tokens` [B, T] and `logits` [B, T, V], recorded where it was trained.
        task: what to compare settings on, "copy" (the default for 29 tokens), "copy-mixed", "lookup" or "text".
        length: letters per string, or bytes per piece of a text; None takes what the positions allow.
        text: the file whose bytes a text model predicts.
        tokens: .npy file of token ids [N, T] that the model predicts, for other vocabularies.
        samples: sequences to compare settings on at most, 2,000 unless named; no more are taken than it needs.
        force: convert with what is named even if something else is clearly better, or nothing is.
        seed: of random strings.
        overwrite: replace an earlier checkpoint in the output folder, and what else is there.
        progress: shows progress.

    Raises:
        CheckpointError: the file does not fit, what is named is clearly beaten, or nothing settles what is not named.
        InputError, ConfigError: arguments that contradict each other or the file.

    Example:
        >>> run = convert("model.pth", output="run", reference="logits.npz")  # doctest: +SKIP
    """
    source, place = as_path(weights, "weights"), _Place(as_path(output, "output"), flag(overwrite, "overwrite"))
    options = ModelOptions.of(
        readout=readout,
        activation=activation,
        no_post_norm=no_post_norm,
        post_norm=post_norm,
        head_scale=head_scale,
        heads=heads,
        norm=norm,
        eps=eps,
    )
    kind = optional_choice(model, "model", MODELS)
    search = _Search(
        DataOptions(
            optional_choice(task, "task", TASKS),
            optional_whole(length, "length", 1),
            optional_path(text, "text"),
            optional_path(tokens, "tokens"),
            whole_number(seed, "seed", 0, LARGEST_SEED),
        ),
        optional_path(reference, "reference"),
        optional_whole(samples, "samples", 2),
        flag(force, "force"),
        progress,
    )
    place.check(source)
    official = read_official(source)
    own = find_card(source, official)
    if own is not None:
        official = _as_asked(apply_settings(official, own.block_config), kind)
        settings = settings_of(own.block_config, options)
        if search.has_evidence:
            return _find_out(source, place, official, settings, search, own)
        return place.save(source, official, build_official(official, **settings), own)
    named = _named(_as_asked(official, kind), options, kind)
    return _find_out(source, place, official, named, search)


@dataclass(frozen=True)
class _Place:
    """The folder that is written, and whether a checkpoint that is there may go."""

    folder: Path
    overwrite: bool

    def check(self, source: Path) -> None:
        """Refuse it before the work.

        Raises:
            InputError: it holds something else or what is converted, or an earlier checkpoint that is to stay.
        """
        check_replaceable(self.folder, CHECKPOINT_MARKER, self.overwrite)
        if is_checkpoint(self.folder) and not self.overwrite:
            raise InputError(f"{self.folder} holds an earlier RUN: name another output, or add `overwrite`")
        real = Path(os.path.realpath(source))  # of a circle of links, too, which is refused when it is read
        if self.folder.resolve() in (real, *real.parents):
            raise InputError(f"{source} lies in the output {self.folder}, which is replaced: name another output")

    def save(
        self,
        source: Path,
        official: OfficialWeights,
        model: SequenceModel,
        card: ModelCard,
        ranking: Ranking | None = None,
    ) -> ConvertResult:
        """Write the checkpoint folder, unless its model has no past to read."""
        if card.config.capacity == 1:
            raise CheckpointError(f"{source}: one learned position: nothing to carry: wpe needs at least 2 rows")
        run = save_checkpoint(self.folder, model, card, {"converted": _origin(official)}, self.overwrite)
        return ConvertResult(run, source, ranking, card.task, official.unwrapped)


@dataclass(frozen=True)
class _Search:
    """How what shapes do not tell is to be found out.

    Attributes:
        data: what settings are compared on.
        reference: recorded logits.
        samples: sequences at most; None takes the usual number.
        force: take what is named, whatever is found.
    """

    data: DataOptions
    reference: Path | None
    samples: int | None
    force: bool
    progress: Progress

    def __post_init__(self) -> None:
        if self.reference is not None and (self.samples is not None or self.data.tokens is not None):
            ignored = "samples" if self.samples is not None else "tokens"
            raise InputError(f"`reference` and `{ignored}` contradict each other: recorded logits settle it alone")

    @property
    def has_evidence(self) -> bool:
        """Whether the user gives something to compare settings with, though they are known."""
        return self.reference is not None or self.data.is_named


def _find_out(
    source: Path,
    place: _Place,
    official: OfficialWeights,
    named: dict[str, Any],
    search: _Search,
    own: ModelCard | None = None,
) -> ConvertResult:
    """Convert with what is found out.

    Args:
        own: the card beside the weights, whose settings are named.
    """
    asked = Asked(str(source), named, search.force, CONFIG_NAME if own is not None else "")
    trial = SettingTrial.of(official, asked, search.data, search.progress, tried=search.has_evidence)
    if search.reference is None:
        setting, known_by, ranking = trial.by_likelihood(_SAMPLES if search.samples is None else search.samples)
    else:
        setting, known_by = trial.by_logits(read_recorded_logits(search.reference, trial.usual))
        ranking = None
    found = trial.task_of(setting, ranking)
    trial.model.set_config(setting)
    alphabet = guess_alphabet(setting.vocabulary)
    card = ModelCard(setting, None if alphabet is None else Alphabet(alphabet), found, known_by)
    if own is not None:
        card = checked_card(own, card, search.reference is not None)
    return place.save(source, official, trial.model, card, ranking)


def _origin(official: OfficialWeights) -> dict[str, Any]:
    """Where the weights come from, for people and `inspect`."""
    (name, digest), *others = official.hashes.items()
    origin: dict[str, Any] = {"file": name, "sha256": digest}
    if others:
        origin["shards"] = dict(others)
    return origin | ({"unwrapped": list(official.unwrapped)} if official.unwrapped else {})


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
