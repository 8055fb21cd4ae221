"""A training in progress: log, evaluations, checkpoints, and what stays where it is interrupted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from causalrn.bundle.disk.folders import renewed_folder
from causalrn.errors import FallbackWarning, TrainingInterruptedError
from causalrn.interrupts import holding_interrupts
from causalrn.model.cell import RecurrentCell
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.progress import Progress
from causalrn.runtimes.task_accuracy import TaskAccuracy, free_running_accuracy, teacher_forced_accuracy
from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_weights, write_training_state
from causalrn.training.checkpoint_folder import (
    CHECKPOINT_MARKER,
    LOG_NAME,
    STATE_NAME,
    WEIGHTS_NAME,
    CheckpointFolder,
)
from causalrn.training.loop import Trainer, TrainingStep
from causalrn.training.plan import TrainingPlan
from causalrn.training.processes import Processes
from causalrn.training.tasks import Corpus, Task, TextTask
from causalrn.training.threads import SlowSteps, computing_with

_QUICK, _FINAL = 250, 1000
"""Sequences to evaluate on: on the way, and at the end."""


@dataclass(frozen=True)
class Evaluation:
    """How well the model does its task: the right tokens given in parallel form, and left alone in recurrent form."""

    teacher_forced: TaskAccuracy
    free_running: TaskAccuracy


@dataclass(frozen=True)
class TrainResult:
    """How a training ended; it stands for its checkpoint folder wherever a path is wanted.

    Attributes:
        run: the checkpoint folder.
        task: what was trained.
        steps: optimizer steps that were taken.
        seconds: that they took, evaluations included.
        evaluation: at the end.
    """

    run: CheckpointFolder
    task: Task
    steps: int
    seconds: float
    evaluation: Evaluation

    def __fspath__(self) -> str:
        """Path of the checkpoint folder."""
        return os.fspath(self.run.path)

    @property
    def accuracy(self) -> float:
        """What the task is judged by, 0 to 1."""
        return self.evaluation.free_running.accuracy

    def summary(self) -> str:
        """Two lines for people."""
        free, forced = self.evaluation.free_running, self.evaluation.teacher_forced
        counts = f"{self.task.verb} {free.right}/{free.counted} {free.unit}"
        share = f"({100 * free.accuracy:.1f} %)"
        if self.task.feeds_back:
            result = f"{counts} by free-running greedy decoding {share}, {forced.right}/{forced.counted} teacher-forced"
        else:
            assert forced.loss is not None
            result = f"{counts} of held-out text right {share}, {forced.loss / math.log(2):.3f} bits per byte"
        return f"{result}\nwrote {self.run.path} after {self.steps} steps in {self.seconds:.0f} s"


class TrainingRun:
    """A training in progress: what has been saved, and when it started.

    Args:
        plan: what to train and how.
        output: folder that keeps the newest checkpoint and the log up to it.
        processes: that train together; the first one evaluates, reports and writes.
        progress: shows progress.
    """

    def __init__(self, plan: TrainingPlan, output: Path, processes: Processes, progress: Progress) -> None:
        self.plan, self.output, self.processes, self.progress = plan, output, processes, progress
        self.trainer = Trainer(SequenceModel(plan.card.block_config), plan.task, plan.settings, processes)
        self.saved_step = 0
        self.ended = False
        self._log: list[str] = []
        self.started = time.monotonic()
        self._slow_steps = SlowSteps(plan.settings.threads or torch.get_num_threads())

    def run(self) -> TrainResult | None:
        """Train to the end; None in all processes but the first."""
        with computing_with(self.plan.settings.threads, self._multiplications()):
            return self._run()

    def _multiplications(self) -> int:
        """Of one matrix product of a block."""
        config, sequences = self.plan.card.block_config, self.plan.settings.batch / self.processes.size
        return round(sequences * self.plan.task.capacity * config.embedding * config.hidden)

    def _run(self) -> TrainResult | None:
        if not self.processes.is_first:
            for _ in self._steps(lambda step, last: None):
                pass
            return None
        title, total = f"train {self.plan.card.block_config.kind}", self.plan.settings.steps
        self._start_log()
        with self._told_what_is_kept(), self.progress(title, total) as advance:
            advance(self.trainer.steps_done)
            note = ""
            for step, evaluation in self._steps(self._evaluate):
                self._note(step, evaluation)
                if evaluation is not None:
                    with holding_interrupts():
                        self._save()
                    note = f", {self.plan.task.verb} {100 * evaluation.free_running.accuracy:.1f} %"
                advance(1, f"loss {step.loss:.4f}{note}")
        assert evaluation is not None
        seconds = time.monotonic() - self.started
        return TrainResult(CheckpointFolder.open(self.output), self.plan.task, step.step, seconds, evaluation)

    def _steps(
        self, evaluate: Callable[[TrainingStep, bool], Evaluation | None]
    ) -> Iterator[tuple[TrainingStep, Evaluation | None]]:
        """Optimizer steps to the end, with an evaluation where one is due; all processes end together."""
        plan = self.plan
        while not self.ended:
            began, step, evaluation = time.monotonic(), self.trainer.step(), None
            hint = self._slow_steps.note(time.monotonic() - began)
            if hint is not None and self.processes.is_first:
                warnings.warn(hint, FallbackWarning, stacklevel=2)
            self.ended = step.step == plan.settings.steps
            if self.ended or step.step % plan.evaluate_every == 0:
                evaluation = evaluate(step, self.ended)
                reached = evaluation is not None and self._reached(evaluation)
                if self.processes.from_first(reached, plan.settings.device) and not self.ended:
                    self.ended, evaluation = True, evaluate(step, True)
            yield step, evaluation

    def _reached(self, evaluation: Evaluation) -> bool:
        return self.plan.until is not None and evaluation.free_running.accuracy >= self.plan.until

    def _evaluate(self, step: TrainingStep, last: bool) -> Evaluation:
        return evaluate(self.trainer.model, self.plan.card, _FINAL if last else _QUICK)

    @contextlib.contextmanager
    def _told_what_is_kept(self) -> Iterator[None]:
        """Ctrl-C says what the folder holds: the last checkpoint, or what was there before."""
        is_new = not self.output.exists()
        try:
            yield
        except KeyboardInterrupt:
            kept = f"{self.output} keeps the checkpoint of step {self.saved_step}"
            lost = "before the first evaluation: " + (
                f"nothing was written to {self.output}" if is_new else f"{self.output} is as it was"
            )
            hint = ", go on with `resume`" if self.saved_step else ""
            raise TrainingInterruptedError(f"interrupted: {kept if self.saved_step else lost}{hint}") from None

    def _start_log(self) -> None:
        """A resumed run keeps the log up to its checkpoint."""
        log = self.output / LOG_NAME
        if not self.saved_step or not log.is_file():
            return
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        self._log = [line for line in lines if _logged_step(line) <= self.saved_step]
        if self._log:
            self.started -= float(json.loads(self._log[-1]).get("seconds", 0.0))

    def _note(self, step: TrainingStep, evaluation: Evaluation | None) -> None:
        """One more line for the log, which is written with the checkpoint."""
        line: dict[str, Any] = {**asdict(step), "seconds": round(time.monotonic() - self.started, 3)}
        if evaluation is not None:
            line |= {
                "teacher_forced": evaluation.teacher_forced.entries(),
                "free_running": evaluation.free_running.entries(),
            }
        self._log.append(json.dumps(line) + "\n")

    def _save(self) -> None:
        """Renew the checkpoint, all its files at once."""
        trainer, plan = self.trainer, self.plan
        trained = {**asdict(plan.settings), "processes": self.processes.size, "at_step": trainer.steps_done}
        with renewed_folder(self.output, CHECKPOINT_MARKER) as folder:
            (folder / LOG_NAME).write_text("".join(self._log), encoding="utf-8")
            save_weights(folder / WEIGHTS_NAME, trainer.model)
            write_training_state(folder / STATE_NAME, trainer.state(), plan.entries() | {"ended": self.ended})
            CheckpointFolder(folder, plan.card, {"trained": trained, **_origin_of_text(plan.task)}).write_config()
        self.saved_step = trainer.steps_done


def _logged_step(line: str) -> float:
    """The step that a line of the log is about; infinity where it is damaged, or was cut off."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _origin_of_text(task: Task) -> dict[str, Any]:
    corpus: Corpus | None = task.corpus if isinstance(task, TextTask) else None
    return {} if corpus is None else {"text": {"file": corpus.path.name, "sha256": corpus.sha256}}


def evaluate(model: SequenceModel, card: ModelCard, count: int) -> Evaluation:
    """Accuracy on fresh sequences: teacher-forced on the model's device, free-running on the CPU."""
    assert card.task is not None
    examples = card.task.draw("evaluate", count)
    forced = teacher_forced_accuracy(ParallelSession(model, card), card.task, examples)
    model.train()
    if not card.task.feeds_back:
        return Evaluation(forced, forced)
    copy = SequenceModel(card.block_config)
    copy.load_state_dict(model.state_dict())
    session = RecurrentSession(RecurrentCell.from_model(copy), card)
    return Evaluation(forced, free_running_accuracy(session, card.task, examples))
