"""One training run as `train` and `demo` drive it: progress, log, evaluation, checkpoints."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from causalrn.alphabet import Alphabet
from causalrn.card import ModelCard
from causalrn.cell import RecurrentCell
from causalrn.checkpoint import read_training_state, save_weights, write_training_state
from causalrn.errors import CausalRNError, CheckpointError, InputError, TrainingError, TrainingInterruptedError
from causalrn.export.cli.console import progress
from causalrn.files import check_replaceable, written_file
from causalrn.model import SequenceModel
from causalrn.run_folder import (
    LOG_NAME,
    PARTIAL_LOG_NAME,
    RUN_MARKER,
    STATE_NAME,
    WEIGHTS_NAME,
    RunFolder,
    is_run,
)
from causalrn.runtimes.copying import CopyAccuracy, free_running_accuracy, teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from causalrn.tasks import CopyTask, random_source
from causalrn.training import PRESETS, Trainer, TrainingSettings, choose_device

_QUICK_STRINGS, _FINAL_STRINGS = 250, 1000


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and how.

    Attributes:
        evaluate_every: steps between evaluations; each renews the checkpoint.
        until: stop early at an evaluation where this share of strings, 0 to 1, is copied free-running.
    """

    card: ModelCard
    settings: TrainingSettings
    evaluate_every: int
    until: float | None = None

    def __post_init__(self) -> None:
        if self.until is not None and not 0 < self.until <= 1:
            raise InputError(f"--until is {self.until}: it must be above 0 and at most 1")

    @classmethod
    def from_options(
        cls,
        *,
        length: int,
        preset: str = "tiny",
        device: str = "auto",
        seed: int = 0,
        evaluate_every: int | None = None,
        until: float | None = None,
        model: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> TrainingPlan:
        """From the command line's options.

        Args:
            model: fields of :class:`ModelConfig` beside those of the preset.
            settings: fields of :class:`TrainingSettings`; None stands for the preset's value.
        """
        size, task = PRESETS[preset], CopyTask(length)
        defaults = {"steps": size.steps, "batch": size.batch, "learning_rate": size.learning_rate}
        given = {name: value for name, value in settings.items() if value is not None}
        chosen = TrainingSettings(**{**defaults, **given}, seed=seed, device=choose_device(device))
        card = ModelCard(size.model(task, **(model or {})), Alphabet("letters"), task)
        return cls(card, chosen, evaluate_every or max(25, -(-chosen.steps // 8)), until)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, for resuming."""
        return {
            "card": self.card.to_json(),
            "settings": asdict(self.settings),
            "evaluate_every": self.evaluate_every,
            "until": self.until,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> TrainingPlan:
        """Read :meth:`to_json`'s form back; `source` is named in errors.

        Raises:
            CheckpointError: an entry is missing or wrong.
        """
        try:
            settings = TrainingSettings(**data["settings"])
            return cls(ModelCard.from_json(data["card"], source), settings, data["evaluate_every"], data["until"])
        except (KeyError, TypeError, CausalRNError) as error:
            raise CheckpointError(f"{source}: malformed training plan ({error})") from None


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
        TrainingInterruptedError: Ctrl-C; the last checkpoint is kept.
    """
    check_replaceable(output, RUN_MARKER)
    if is_run(output) and not overwrite:
        raise InputError(f"{output} holds an earlier RUN: name another output, or add --overwrite")
    torch.manual_seed(plan.settings.seed)
    return _TrainingRun(plan, output).run()


def resume_training(output: Path, device: str = "auto") -> TrainingResult:
    """Go on with an interrupted run: the final weights are those of a run without interruption.

    Raises:
        CheckpointError: the folder holds no training that can be resumed.
        TrainingError: the training has ended already.
    """
    tensors, data = read_training_state(output / STATE_NAME)
    plan = TrainingPlan.from_json(data, str(output / STATE_NAME))
    plan = replace(plan, settings=replace(plan.settings, device=choose_device(device)))
    run = _TrainingRun(plan, output)
    run.trainer.load_state(tensors)
    if run.trainer.steps_done >= plan.settings.steps:
        raise TrainingError(f"{output}: the training has ended after {plan.settings.steps} steps: nothing to resume")
    run.saved_step = run.trainer.steps_done
    return run.run()


class _TrainingRun:
    """A training in progress: what has been saved, and when it started."""

    def __init__(self, plan: TrainingPlan, output: Path) -> None:
        assert plan.card.task is not None
        self.plan, self.output = plan, output
        self.trainer = Trainer(SequenceModel(plan.card.config), plan.card.task, plan.settings)
        self.saved_step = 0
        self.note = ""

    def run(self) -> TrainingResult:
        created = not self.output.exists()
        self.output.mkdir(parents=True, exist_ok=True)
        partial_log = self.output / PARTIAL_LOG_NAME
        try:
            self._start_log(partial_log)
            return self._train(partial_log)
        except KeyboardInterrupt:
            kept = f"{self.output} keeps the checkpoint of step {self.saved_step}"
            lost = "before the first evaluation: " + (
                f"nothing was written to {self.output}" if created else f"{self.output} is as it was"
            )
            hint = ", go on with train --resume" if self.saved_step else ""
            raise TrainingInterruptedError(f"interrupted: {kept if self.saved_step else lost}{hint}") from None
        finally:
            partial_log.unlink(missing_ok=True)
            if created and not self.saved_step:
                shutil.rmtree(self.output)

    def _start_log(self, partial: Path) -> None:
        """A resumed run keeps the log up to its checkpoint; an earlier RUN's log stays until there is a new one."""
        lines: list[str] = []
        log = self.output / LOG_NAME
        if self.saved_step and log.is_file():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            lines = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.saved_step]
        partial.write_text("".join(lines), encoding="utf-8")

    def _train(self, partial_log: Path) -> TrainingResult:
        plan, trainer, started = self.plan, self.trainer, time.monotonic()
        total = plan.settings.steps
        with (
            partial_log.open("a", encoding="utf-8") as log,
            progress(f"train {plan.card.config.readout}", total) as advance,
        ):
            advance(trainer.steps_done)
            while True:
                step = trainer.step()
                line: dict[str, Any] = {**asdict(step), "seconds": round(time.monotonic() - started, 3)}
                last = step.step == total
                if last or step.step % plan.evaluate_every == 0:
                    forced, free = _evaluate(trainer.model, plan.card, _FINAL_STRINGS if last else _QUICK_STRINGS)
                    if plan.until is not None and free.accuracy >= plan.until and not last:
                        last = True
                        forced, free = _evaluate(trainer.model, plan.card, _FINAL_STRINGS)
                    line |= {"teacher_forced": forced.to_json(), "free_running": free.to_json()}
                    self.note = f", copied {100 * free.accuracy:.1f} %"
                _write_line(log, line)
                if "free_running" in line:
                    self._save()
                    if partial_log.exists():
                        partial_log.replace(self.output / LOG_NAME)
                advance(1, f"loss {step.loss:.4f}{self.note}")
                if last:
                    return TrainingResult(self.output, step.step, time.monotonic() - started, forced, free)

    def _save(self) -> None:
        """Renew the checkpoint: what resuming needs, the weights, the card; each whole or not at all."""
        trainer = self.trainer
        write_training_state(self.output / STATE_NAME, trainer.state(), self.plan.to_json())
        with written_file(self.output / WEIGHTS_NAME) as partial:
            save_weights(partial, trainer.model)
        origin = {"trained": {**asdict(self.plan.settings), "at_step": trainer.steps_done}}
        RunFolder(self.output, self.plan.card, origin).write_config()
        self.saved_step = trainer.steps_done


def _evaluate(model: SequenceModel, card: ModelCard, count: int) -> tuple[CopyAccuracy, CopyAccuracy]:
    """Teacher-forced in parallel form, free-running in recurrent form, on fresh strings; always on the CPU."""
    assert card.task is not None
    strings = card.task.sample(random_source("evaluate", 0), count)
    copy = SequenceModel(card.config)
    copy.load_state_dict(model.state_dict())
    forced = teacher_forced_accuracy(ParallelSession(copy, card), card.task, strings)
    free = free_running_accuracy(RecurrentSession(RecurrentCell.from_model(copy), card), card.task, strings)
    return forced, free


def _write_line(log: IO[str], line: Mapping[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
