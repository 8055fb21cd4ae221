"""One training run as `train` and `demo` drive it: progress, log, evaluation, checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from causalrn.alphabet import Alphabet
from causalrn.card import ModelCard
from causalrn.cell import RecurrentCell
from causalrn.checkpoint import save_weights
from causalrn.errors import InputError
from causalrn.export.cli.console import progress
from causalrn.files import check_replaceable, written_file
from causalrn.model import CausalRN
from causalrn.run_folder import CONFIG_NAME, LOG_NAME, WEIGHTS_NAME, RunFolder, is_run
from causalrn.runtimes.copying import CopyAccuracy, free_running_accuracy, teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from causalrn.tasks import CopyTask
from causalrn.training import PRESETS, TrainingSettings, TrainingStep, choose_device, train

_EVALUATION_SEED = 1_000_003  # apart from every training seed's stream
_QUICK_STRINGS, _FINAL_STRINGS = 250, 1000


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and how."""

    card: ModelCard
    settings: TrainingSettings
    evaluate_every: int

    @classmethod
    def from_options(
        cls,
        *,
        length: int,
        task: str = "copy",
        readout: str = "exact",
        preset: str = "tiny",
        steps: int | None = None,
        batch: int | None = None,
        learning_rate: float | None = None,
        evaluate_every: int | None = None,
        device: str = "auto",
        seed: int = 0,
    ) -> TrainingPlan:
        """From the command line's options; None stands for the preset's value."""
        assert task == "copy"
        size, copy_task = PRESETS[preset], CopyTask(length)
        settings = TrainingSettings(
            steps=size.steps if steps is None else steps,
            batch=size.batch if batch is None else batch,
            learning_rate=size.learning_rate if learning_rate is None else learning_rate,
            seed=seed,
            device=choose_device(device),
        )
        card = ModelCard(size.model(copy_task, readout), Alphabet("letters"), copy_task)
        return cls(card, settings, evaluate_every or max(25, -(-settings.steps // 8)))


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: accuracies on 1,000 fresh strings."""

    output: Path
    steps: int
    seconds: float
    teacher_forced: CopyAccuracy
    free_running: CopyAccuracy

    def summary(self) -> str:
        """Two lines for people."""
        free, forced = self.free_running, self.teacher_forced
        return (
            f"copied {free.copied}/{free.strings} strings by free-running greedy decoding "
            f"({100 * free.accuracy:.1f} %), {forced.copied}/{forced.strings} teacher-forced\n"
            f"wrote {self.output} after {self.steps} steps in {self.seconds:.0f} s"
        )


def run_training(plan: TrainingPlan, output: Path, *, overwrite: bool = False) -> TrainingResult:
    """Train with a progress bar, keeping the newest checkpoint and a log in `output`.

    Raises:
        InputError: the output folder holds something else, or an earlier RUN without `overwrite`.
    """
    check_replaceable(output, CONFIG_NAME)
    if is_run(output) and not overwrite:
        raise InputError(f"{output} holds an earlier RUN: name another output, or add --overwrite")
    task = plan.card.task
    assert task is not None
    created = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.settings.seed)
    model = CausalRN(plan.card.config)
    started, saved_step = time.monotonic(), 0
    description = f"train {plan.card.config.readout}"
    try:
        with (
            (output / LOG_NAME).open("w", encoding="utf-8") as log,
            progress(description, plan.settings.steps) as advance,
        ):
            for step in train(model, task, plan.settings):
                line: dict[str, Any] = {**asdict(step), "seconds": round(time.monotonic() - started, 3)}
                last = step.step == plan.settings.steps
                if last or step.step % plan.evaluate_every == 0:
                    strings = _FINAL_STRINGS if last else _QUICK_STRINGS
                    forced, free = _evaluate(model, plan.card, strings)
                    line |= {"teacher_forced": forced.to_json(), "free_running": free.to_json()}
                    _save(output, model, plan, step)
                    saved_step = step.step
                _write_line(log, line)
                advance(1, f"loss {step.loss:.4f}" + (f", copied {100 * free.accuracy:.1f} %" if saved_step else ""))
    except KeyboardInterrupt:
        if saved_step:
            raise InputError(f"interrupted: {output} keeps the checkpoint of step {saved_step}") from None
        _discard(output, created)
        raise InputError(f"interrupted before the first evaluation: nothing was kept in {output}") from None
    except BaseException:
        if not saved_step:
            _discard(output, created)
        raise
    return TrainingResult(output, plan.settings.steps, time.monotonic() - started, forced, free)


def _evaluate(model: CausalRN, card: ModelCard, count: int) -> tuple[CopyAccuracy, CopyAccuracy]:
    """Teacher-forced in parallel form, free-running in recurrent form, on fresh strings; always on the CPU."""
    assert card.task is not None
    strings = card.task.sample(np.random.default_rng(_EVALUATION_SEED), count)
    copy = CausalRN(card.config)
    copy.load_state_dict(model.state_dict())
    forced = teacher_forced_accuracy(ParallelSession(copy, card), card.task, strings)
    free = free_running_accuracy(RecurrentSession(RecurrentCell.from_model(copy), card), card.task, strings)
    return forced, free


def _save(output: Path, model: CausalRN, plan: TrainingPlan, step: TrainingStep) -> None:
    with written_file(output / WEIGHTS_NAME) as partial:
        save_weights(partial, model)
    origin = {"trained": {**asdict(plan.settings), "at_step": step.step}}
    RunFolder(output, plan.card, origin).write_config()


def _discard(output: Path, created: bool) -> None:
    """Leave nothing of a run that never reached a checkpoint; an earlier RUN's files stay."""
    (output / LOG_NAME).unlink(missing_ok=True)
    if created:
        output.rmdir()


def _write_line(log: IO[str], line: Mapping[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
