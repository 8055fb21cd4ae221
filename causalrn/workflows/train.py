"""Training in parallel mode on a task: a new one, or one that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from causalrn.bundle.disk.files import as_path
from causalrn.bundle.disk.folders import check_renewable
from causalrn.errors import InputError, TrainingError
from causalrn.model.operators.functions import KERNEL_CHOICES
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.checkpoint import read_training_state
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, STATE_NAME, is_checkpoint
from causalrn.training.loop import PRECISIONS, PRESETS, SCHEDULES
from causalrn.training.plan import TrainingPlan
from causalrn.training.processes import joined_processes
from causalrn.training.tasks import TASKS, Corpus, Task, make_task
from causalrn.workflows.arguments import (
    LARGEST_SEED,
    MOST,
    PathLike,
    choice,
    flag,
    optional_number,
    optional_path,
    optional_whole,
    whole_number,
)
from causalrn.workflows.model_options import MODELS, ModelOptions
from causalrn.workflows.training_run import TrainingRun, TrainResult

_LENGTHS = {"text": 128}
_DEFAULT_LENGTH = 16


def train(
    *,
    output: PathLike,
    task: str = "copy",
    length: int | None = None,
    key: int | None = None,
    text: PathLike | None = None,
    model: str = "causalrn",
    readout: str | None = None,
    heads: int = 1,
    norm: str = "layer",
    activation: str | None = None,
    no_post_norm: bool = False,
    head_scale: str | None = None,
    positions: str = "learned",
    preset: str = "tiny",
    embedding: int | None = None,
    hidden: int | None = None,
    blocks: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    schedule: str = "cosine",
    evaluate_every: int | None = None,
    accumulate: int | None = None,
    until: float | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    kernel: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> TrainResult | None:
    """Train a CausalRN, or one of its baselines, in parallel mode on a task.

    The checkpoint is renewed at every evaluation; an interrupt (KeyboardInterrupt) keeps the last one, and
    :func:`resume_training` goes on from it. Under torchrun every process calls this.

    Args:
        output: folder to write: model.safetensors, config.json, log.jsonl.
        task: "copy", "copy-mixed", "lookup" or "text".
        length: letters per string, or bytes per window of a text; 16, or 128 for text.
        key: of lookup, letters of the k-gram to look up; 3 by default.
        text: of the task text, the file to learn; its last tenth is kept for evaluation.
        model: "causalrn", "transformer" or "linear-transformer".
        readout: "exact", "linear" or "plain"; exact by default.
        heads, norm, activation, no_post_norm, head_scale, positions: fields of the configuration
            (:mod:`causalrn.model.config`).
        preset: "tiny", "small" or "paper": sizes and settings that are not named.
        embedding, hidden, blocks: E, H and N.
        steps: optimizer steps.
        batch: sequences per step, over all processes.
        learning_rate: its peak.
        schedule: "cosine" or "constant", after 50 steps of warm-up.
        evaluate_every: steps between evaluations.
        accumulate: parts that a step's sequences are taken in.
        until: stop early once this share is right, 0 to 1.
        device: "auto", "cpu", "cuda", ...
        precision: "fp32", or "bf16" for matrix products on GPUs.
        compile: run the model through torch.compile.
        threads: of one operation on a CPU; by default the physical cores that are free. The weights are the same bit
            for bit with the same seed, kernel and threads.
        kernel: what computes sums over pairs: "c" (compiled once by this machine's compiler), "triton" (on NVIDIA
            GPUs), "tiles" (PyTorch), or "auto", the fastest that works here.
        seed: of weights and data.
        overwrite: replace an earlier checkpoint in the output folder.
        progress: shows progress.

    Returns:
        How it ended; None in all processes but the first.

    Raises:
        InputError: arguments that contradict each other, or the output holds something else.
        ConfigError, TrainingError: a configuration or settings that cannot be.
        TrainingInterruptedError: Ctrl-C; the last checkpoint is kept.

    Example:
        >>> run = train(task="copy", length=16, output="run", steps=400, seed=0)  # doctest: +SKIP
        >>> run.accuracy  # doctest: +SKIP
        1.0
    """
    asked = ModelOptions.of(
        readout=readout,
        activation=activation,
        no_post_norm=no_post_norm,
        head_scale=head_scale,
        heads=heads,
        norm=norm,
        positions=positions,
        embedding=embedding,
        hidden=hidden,
        blocks=blocks,
    )
    kind, fields = asked.fields_for(choice(model, "model", MODELS))
    settings = {
        "steps": optional_whole(steps, "steps", 1),
        "batch": optional_whole(batch, "batch", 1),
        "learning_rate": optional_number(learning_rate, "learning_rate"),
        "accumulate": optional_whole(accumulate, "accumulate", 1),
        "schedule": choice(schedule, "schedule", SCHEDULES),
        "precision": choice(precision, "precision", PRECISIONS),
        "compile": flag(compile, "compile"),
        "threads": optional_whole(threads, "threads", 1),
        "kernel": choice(kernel, "kernel", KERNEL_CHOICES),
    }
    plan = TrainingPlan.from_options(
        task=_chosen_task(task, length, key, text),
        preset=choice(preset, "preset", PRESETS),
        device=_checked_device(device),
        seed=whole_number(seed, "seed", 0, LARGEST_SEED),
        evaluate_every=optional_whole(evaluate_every, "evaluate_every", 1),
        until=optional_number(until, "until"),
        kind=kind,
        model=fields,
        **settings,
    )
    return run_training(plan, as_path(output, "output"), overwrite=flag(overwrite, "overwrite"), progress=progress)


def _checked_device(device: Any) -> str:
    if not isinstance(device, str):
        raise InputError(f"`device` is {device!r}: it must be a name, e.g. 'cpu'")
    return device


def _chosen_task(name: str, length: int | None, key: int | None, text: PathLike | None) -> Task:
    """The task, from its arguments."""
    choice(name, "task", TASKS)
    if key is not None and name != "lookup":
        raise InputError(f"`task` {name} and `key` contradict each other: only lookup has a key")
    corpus = optional_path(text, "text")
    if (corpus is not None) != (name == "text"):
        raise InputError(
            "`task` text needs `text`, the file to learn"
            if corpus is None
            else f"`task` {name} and `text` contradict each other: only the task text reads a file"
        )
    options: dict[str, Any] = {} if key is None else {"key": whole_number(key, "key", 1)}
    if corpus is not None:
        options["corpus"] = Corpus.open(corpus)
    letters = optional_whole(length, "length", 1, MOST) or _LENGTHS.get(name, _DEFAULT_LENGTH)
    return make_task(name, letters, **options)


def run_training(
    plan: TrainingPlan, output: Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> TrainResult | None:
    """:func:`train` with its settings as an object.

    Raises:
        InputError: the output folder holds something else, or an earlier checkpoint without `overwrite`.
        TrainingInterruptedError: Ctrl-C; the last checkpoint is kept.
    """
    check_renewable(output, CHECKPOINT_MARKER)
    if is_checkpoint(output) and not overwrite:
        raise InputError(f"{output} holds an earlier RUN: name another output, or add `overwrite`")
    with joined_processes(plan.settings.device) as processes:
        torch.manual_seed(plan.settings.seed)
        return TrainingRun(plan, output, processes, progress).run()


def resume_training(
    output: PathLike, device: str | None = None, *, threads: int | None = None, progress: Progress = no_progress
) -> TrainResult | None:
    """Go on with an interrupted training: the final weights are those of a training without interruption.

    Args:
        output: its checkpoint folder.
        device: another device than the one that the training began on.
        threads: another number than it began with; the weights are then the same up to rounding.
        progress: shows progress.

    Raises:
        CheckpointError: the folder holds no training that can be resumed.
        TrainingError: the training has ended already.
    """
    folder = as_path(output, "output")
    check_renewable(folder, CHECKPOINT_MARKER)
    tensors, data = read_training_state(folder / STATE_NAME)
    plan = TrainingPlan.from_entries(data, str(folder / STATE_NAME)).on_device(device)
    plan = plan.with_threads(optional_whole(threads, "threads", 1))
    with joined_processes(plan.settings.device) as processes:
        run = TrainingRun(plan, folder, processes, progress)
        run.trainer.load_state(tensors)
        if data.get("ended") or run.trainer.steps_done >= plan.settings.steps:
            ended = f"the training has ended after {run.trainer.steps_done} steps"
            raise TrainingError(f"{folder}: {ended}: nothing to resume")
        run.saved_step = run.trainer.steps_done
        return run.run()
