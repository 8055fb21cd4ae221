"""One conversion: infer, build, try the copying task with each readout, save."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causalrn.bundle.alphabet import ALPHABET_SIZES, Alphabet, guess_alphabet
from causalrn.bundle.files import check_replaceable, sha256_file
from causalrn.cli.options import ModelOptions
from causalrn.errors import CheckpointError, InputError
from causalrn.model.config import ATTENTIONS, READOUTS
from causalrn.model.official import OfficialWeights, build_official, read_official
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.task_accuracy import teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.checkpoint_folder import RUN_MARKER, is_run
from causalrn.training.tasks import CopyTask

_CLEARLY = 0.05
"""A readout whose token accuracy is better by this much is the one that the weights were trained with."""

_AS_READOUT = {"readout": {"head_scale": "", "heads": 1}}
"""Options that belong to one readout: another one is tried without them."""


def convert(
    source: Path,
    output: Path,
    asked: ModelOptions,
    kind: str | None = None,
    *,
    samples: int,
    seed: int,
    force: bool,
) -> list[str]:
    """Convert official weights to a RUN; gives lines that say what was found.

    Args:
        asked: what shapes do not tell, the readout among it.
        kind: which model the weights are; None takes what their keys say.
        samples: strings of the copying task to try with each readout.
        force: convert whatever the copying task says.

    Raises:
        CheckpointError: the file does not fit, or another readout copies clearly better.
        InputError, ConfigError: what was asked for contradicts itself or the file.
    """
    check_replaceable(output, RUN_MARKER)
    if is_run(output):
        raise InputError(f"{output} holds an earlier RUN: name another output, or delete it first")
    official = _as_asked(read_official(source), kind)
    _, fields = asked.fields_for(official.model, f"{source} (a {official.model})")
    if official.model == "causalrn" and "readout" not in fields:
        raise InputError(f"{source} holds a CausalRN: say which with --readout {', '.join(READOUTS)}")
    model = build_official(official, **fields)
    config = model.config
    lines = [f"{source}: {config.describe()}"]
    task = _copy_task(model)
    if task is not None:
        option = "readout" if official.model == "causalrn" else "attention"
        accuracies = _try_readouts(official, option, fields, task, samples, seed)
        if not force:
            _check_choice(official, option, fields[option], accuracies)
        shown = ", ".join(f"{name} {100 * accuracy:.1f} %" for name, accuracy in accuracies.items())
        lines.append(f"copying {task.length} letters, tokens right with each {option}: {shown}")
        if max(accuracies.values()) < 2 / ALPHABET_SIZES["letters"]:
            lines.append(f"no {option} copies better than chance: the model was trained on another task, or not at all")
            task = None
    alphabet = guess_alphabet(config.vocabulary)
    card = ModelCard(config, None if alphabet is None else Alphabet(alphabet), task)
    origin = {"converted": {"file": source.name, "sha256": sha256_file(source)}}
    save_checkpoint(output, model, card, origin)
    lines.append(f"wrote {output}")
    return lines


def _check_choice(official: OfficialWeights, option: str, chosen: str, accuracies: Mapping[str, float]) -> None:
    """Refuse a readout, or an attention, with which the weights copy clearly worse than with another."""
    best = max(accuracies, key=lambda name: accuracies[name])
    if accuracies[best] > accuracies[chosen] + _CLEARLY:
        mine, theirs = (f"{100 * accuracies[name]:.1f} %" for name in (chosen, best))
        raise CheckpointError(
            f"{official.source}: with {option} {chosen} these weights copy {mine} of the tokens, "
            f"with {best} {theirs}: they were trained with {best} (use --force to convert all the same)"
        )


def _as_asked(official: OfficialWeights, model: str | None) -> OfficialWeights:
    """The weights as the model that the user names: without its buffer a Linear Transformer looks like the other."""
    if model is None or model == official.model:
        return official
    if model != "linear-transformer" or official.model != "transformer":
        raise InputError(
            f"--model {model} and {official.source} contradict each other: its keys are a {official.model}'s"
        )
    return dataclasses.replace(official, model=model)


def _copy_task(model: SequenceModel) -> CopyTask | None:
    """The copying task that a model of these sizes was made for, if any."""
    config = model.config
    if config.vocabulary != ALPHABET_SIZES["letters"] or config.capacity is None or config.capacity < 4:
        return None
    return CopyTask(config.capacity // 2 - 1)


def _try_readouts(
    official: OfficialWeights, option: str, fields: dict[str, Any], task: CopyTask, samples: int, seed: int
) -> dict[str, float]:
    """Teacher-forced token accuracy with what was asked for, and with each other that the rest allows."""
    examples = task.draw("convert", samples, seed)
    choices = READOUTS if option == "readout" else ATTENTIONS
    accuracies = {}
    for choice in (fields[option], *(other for other in choices if other != fields[option])):
        changed = fields if choice == fields[option] else {**fields, option: choice, **_AS_READOUT.get(option, {})}
        model = build_official(official, **changed)
        session = ParallelSession(model, ModelCard(model.config))
        accuracies[choice] = teacher_forced_accuracy(session, task, examples).token_accuracy
    return accuracies
