"""One conversion: infer, build, try the copying task with each readout, save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from causalrn.alphabet import ALPHABET_SIZES, Alphabet, guess_alphabet
from causalrn.card import ModelCard
from causalrn.checkpoint import save_checkpoint
from causalrn.errors import CheckpointError, InputError
from causalrn.files import check_replaceable, sha256_file
from causalrn.model import SequenceModel
from causalrn.official import build_official, read_official
from causalrn.run_folder import RUN_MARKER, is_run
from causalrn.runtimes.copying import teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession
from causalrn.tasks import CopyTask, random_source

_CLEARLY = 0.05
"""A readout whose token accuracy is better by this much is the one that the weights were trained with."""


def convert(source: Path, output: Path, asked: Mapping[str, Any], *, samples: int, seed: int, force: bool) -> list[str]:
    """Convert official weights to a RUN; gives lines that say what was found.

    Args:
        asked: fields of :class:`ModelConfig` that shapes do not tell; ``readout`` among them.
        samples: strings of the copying task to try with each readout.
        force: convert whatever the copying task says.

    Raises:
        CheckpointError: the file does not fit, or another readout copies clearly better.
        ConfigError: what was asked for contradicts itself or the shapes.
    """
    check_replaceable(output, RUN_MARKER)
    if is_run(output):
        raise InputError(f"{output} holds an earlier RUN: name another output, or delete it first")
    weights = read_official(source)
    model = build_official(weights, str(source), **asked)
    config = model.config
    lines = [f"{source}: {config.describe()}"]
    task = _copy_task(model)
    if task is not None:
        accuracies = _try_readouts(weights, asked, task, samples, seed)
        shown = ", ".join(f"{readout} {100 * accuracy:.1f} %" for readout, accuracy in accuracies.items())
        lines.append(f"copying {task.length} letters, tokens right with each readout: {shown}")
        best = max(accuracies, key=lambda readout: accuracies[readout])
        if accuracies[best] > accuracies[config.readout] + _CLEARLY and not force:
            mine, theirs = (f"{100 * accuracies[name]:.1f} %" for name in (config.readout, best))
            raise CheckpointError(
                f"{source}: with --readout {config.readout} these weights copy {mine} of the tokens, "
                f"with {best} {theirs}: they were trained with {best} (use --force to convert all the same)"
            )
        if accuracies[best] < 2 / ALPHABET_SIZES["letters"]:
            lines.append("no readout copies better than chance: the model was trained on another task, or not at all")
            task = None
    alphabet = guess_alphabet(config.vocabulary)
    card = ModelCard(config, None if alphabet is None else Alphabet(alphabet), task)
    origin = {"converted": {"file": source.name, "sha256": sha256_file(source)}}
    save_checkpoint(output, model, card, origin)
    lines.append(f"wrote {output}")
    return lines


def _copy_task(model: SequenceModel) -> CopyTask | None:
    """The copying task that a model of these sizes was made for, if any."""
    config = model.config
    if config.vocabulary != ALPHABET_SIZES["letters"] or config.capacity is None or config.capacity < 4:
        return None
    return CopyTask(config.capacity // 2 - 1)


def _try_readouts(
    weights: dict[str, Tensor], asked: Mapping[str, Any], task: CopyTask, samples: int, seed: int
) -> dict[str, float]:
    """Teacher-forced token accuracy with the readout asked for, and with each other that these options allow."""
    strings = task.sample(random_source("convert", seed), samples)
    readouts = [asked["readout"], *(r for r in ("exact", "linear", "plain") if r != asked["readout"])]
    accuracies = {}
    for readout in readouts:
        options = dict(asked) if readout == asked["readout"] else {**asked, "readout": readout, "head_scale": ""}
        model = build_official(weights, "the weights", **options)
        session = ParallelSession(model, ModelCard(model.config))
        accuracies[readout] = teacher_forced_accuracy(session, task, strings).token_accuracy
    return accuracies
