"""Conversion of the paper authors' weights: infer sizes, build, try the copying task with each readout, save."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.alphabet import ALPHABET_SIZES, Alphabet, guess_alphabet
from causalrn.bundle.files import as_path, check_replaceable
from causalrn.errors import CheckpointError, InputError
from causalrn.model.config import ATTENTIONS, READOUTS
from causalrn.model.official import OfficialWeights, build_official, read_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.task_accuracy import teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, CheckpointFolder, is_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.arguments import LARGEST_SEED, PathLike, flag, optional_choice, whole_number
from causalrn.workflows.known_settings import apply_settings, find_settings, settings_of
from causalrn.workflows.model_options import MODELS, ModelOptions

_CLEARLY = 0.05
"""A readout whose token accuracy is better by this much is the one that the weights were trained with."""

_AS_READOUT = {"readout": {"head_scale": "", "heads": 1}}
"""Options that belong to one readout: another one is tried without them."""


@dataclass(frozen=True)
class ConvertResult:
    """A conversion; it stands for its checkpoint folder wherever a path is wanted.

    Attributes:
        run: the checkpoint folder.
        source: the file that was read.
        accuracies: of the copying task, by readout or kind of attention, tokens right, 0 to 1; None where the model was
            not made for letters.
        choice: "readout" or "attention": what `accuracies` compares.
        task: the copying task, where the model does it better than chance.
        unwrapped: what had to be taken off or out to find the weights, in words.
    """

    run: CheckpointFolder
    source: Path
    accuracies: Mapping[str, float] | None
    choice: str
    task: CopyTask | None
    unwrapped: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        """Path of the checkpoint folder."""
        return os.fspath(self.run.path)


def convert(
    weights: PathLike,
    *,
    output: PathLike,
    readout: str | None = None,
    model: str | None = None,
    heads: int = 1,
    norm: str = "layer",
    eps: float = 0.0,
    activation: str | None = None,
    no_post_norm: bool = False,
    head_scale: str | None = None,
    samples: int = 200,
    force: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ConvertResult:
    """Turn weights saved by the paper's training script, or by one of your own, into a checkpoint folder.

    Args:
        weights: what torch.save or safetensors wrote, whatever is around the state dict; an index of shards; a folder
            of shards, or a checkpoint folder. Sizes come from shapes.
        output: folder to write.
        readout: how positions read the past, "exact", "linear" or "plain"; a CausalRN needs it, weights do not tell.
        model: "causalrn", "transformer" or "linear-transformer"; None takes what the keys say.
        eps: `normalization_eps` of the official code, which every norm adds beside its root.
        heads, norm, activation, no_post_norm, head_scale: what shapes do not tell; activation "exp" unless named.
        samples: strings of the copying task to try each readout with.
        force: convert even if another readout copies clearly better.
        seed: of the strings.
        progress: shows progress.

    Raises:
        CheckpointError: the file does not fit, or another readout copies clearly better.
        InputError, ConfigError: arguments that contradict each other or the file.

    Example:
        >>> run = convert("model.pth", output="run", readout="exact", heads=4)  # doctest: +SKIP
    """
    source, folder = as_path(weights, "weights"), as_path(output, "output")
    asked = ModelOptions.of(
        readout=readout,
        activation=activation,
        no_post_norm=no_post_norm,
        head_scale=head_scale,
        heads=heads,
        norm=norm,
        eps=eps,
    )
    kind = optional_choice(model, "model", MODELS)
    count, seed = whole_number(samples, "samples", 1), whole_number(seed, "seed", 0, LARGEST_SEED)
    flag(force, "force")
    check_replaceable(folder, CHECKPOINT_MARKER)
    if is_checkpoint(folder):
        raise InputError(f"{folder} holds an earlier RUN: name another output, or delete it first")
    official, fields = _read(source, kind, asked)
    built = build_official(official, **fields)
    trial = _Trial(official, fields, count, seed)
    task = _copy_task(built)
    accuracies = None if task is None else trial.accuracies(task, progress)
    if accuracies is not None:
        if not force:
            trial.check(accuracies)
        if max(accuracies.values()) < 2 / ALPHABET_SIZES["letters"]:
            task = None
    alphabet = guess_alphabet(built.config.vocabulary)
    card = ModelCard(built.config, None if alphabet is None else Alphabet(alphabet), task)
    run = save_checkpoint(folder, built, card, {"converted": _origin(official)})
    return ConvertResult(run, source, accuracies, trial.choice, task, official.unwrapped)


def _read(source: Path, kind: str | None, asked: ModelOptions) -> tuple[OfficialWeights, dict[str, Any]]:
    """The weights, and fields that shapes do not tell: what was asked for, or what their checkpoint folder says."""
    official = read_official(source)
    known = find_settings(source, official)
    if known is not None:
        official = apply_settings(official, known)
    official = _as_asked(official, kind)
    return official, _fields_of(official, asked) if known is None else settings_of(known, asked)


def _origin(official: OfficialWeights) -> dict[str, Any]:
    """Where the weights come from, for people and `inspect`."""
    (name, digest), *others = official.hashes.items()
    origin: dict[str, Any] = {"file": name, "sha256": digest}
    if others:
        origin["shards"] = dict(others)
    return origin | ({"unwrapped": list(official.unwrapped)} if official.unwrapped else {})


def _fields_of(official: OfficialWeights, asked: ModelOptions) -> dict[str, Any]:
    _, fields = asked.fields_for(official.model, f"{official.source} (a {official.model})")
    if official.model == "causalrn" and "readout" not in fields:
        raise InputError(f"{official.source} holds a CausalRN: name its `readout`: {', '.join(READOUTS)}")
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


def _copy_task(model: SequenceModel) -> CopyTask | None:
    """The copying task that a model of these sizes was made for, if any."""
    config = model.config
    if config.vocabulary != ALPHABET_SIZES["letters"] or config.capacity is None or config.capacity < 4:
        return None
    return CopyTask(CopyTask.length_for(config.capacity))


@dataclass(frozen=True)
class _Trial:
    """The copying task with what was asked for, and with each other readout, or attention, that the rest allows."""

    official: OfficialWeights
    fields: Mapping[str, Any]
    samples: int
    seed: int

    @property
    def choice(self) -> str:
        return "readout" if self.official.model == "causalrn" else "attention"

    def accuracies(self, task: CopyTask, progress: Progress) -> dict[str, float]:
        """Teacher-forced token accuracy by readout, what was asked for first."""
        examples = task.draw("convert", self.samples, self.seed)
        choice, chosen, accuracies = self.choice, self.fields[self.choice], {}
        known = READOUTS if choice == "readout" else ATTENTIONS
        with progress("copying task", len(known)) as advance:
            for name in (chosen, *(other for other in known if other != chosen)):
                fields = self.fields
                if name != chosen:
                    fields = {**fields, choice: name, **_AS_READOUT.get(choice, {})}
                model = build_official(self.official, **fields)
                session = ParallelSession(model, ModelCard(model.config))
                accuracies[name] = teacher_forced_accuracy(session, task, examples).token_accuracy
                advance(1, name)
        return accuracies

    def check(self, accuracies: Mapping[str, float]) -> None:
        """Refuse a readout with which the weights copy clearly worse than with another."""
        chosen = self.fields[self.choice]
        best = max(accuracies, key=lambda name: accuracies[name])
        if accuracies[best] > accuracies[chosen] + _CLEARLY:
            mine, theirs = (f"{100 * accuracies[name]:.1f} %" for name in (chosen, best))
            raise CheckpointError(
                f"{self.official.source}: with {self.choice} {chosen} these weights copy {mine} of the tokens, "
                f"with {best} {theirs}: they were trained with {best} (use `force` to convert all the same)"
            )
