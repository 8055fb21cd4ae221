"""One training run: what it writes, keeps and resumes, whatever stops it."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from causalrn.errors import CheckpointError, FallbackWarning, InputError, TrainingError, TrainingInterruptedError
from causalrn.model.operators.c_library import kernel_threads
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.training.checkpoint import load_checkpoint
from causalrn.training.checkpoint_folder import CheckpointFolder
from causalrn.training.loop import Trainer
from causalrn.training.plan import TrainingPlan
from causalrn.training.tasks import CopyTask, Corpus, TextTask
from causalrn.training.threads import SlowSteps
from causalrn.workflows import training_run
from causalrn.workflows.train import resume_training, run_training
from causalrn.workflows.training_run import Evaluation
from tests.builders import GOLDEN, ROOT


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(training_run, "_FINAL", 20)
    monkeypatch.setattr(training_run, "_QUICK", 10)
    return TrainingPlan.from_options(task=CopyTask(3), steps=4, batch=4, evaluate_every=2, device="cpu")


def test_run_writes_checkpoint_and_log(plan, tmp_path):
    result = run_training(plan, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["free_running" in line for line in lines] == [False, True, False, True]
    assert lines[-1]["teacher_forced"]["counted"] == result.evaluation.free_running.counted == 20
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.card == plan.card


def test_earlier_run_is_kept_unless_asked(plan, tmp_path):
    run_training(plan, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="add `overwrite`"):
        run_training(plan, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    other = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, seed=7))
    run_training(other, tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def _interrupt_at(monkeypatch, step, error=KeyboardInterrupt):
    take_step = Trainer.step

    def interrupted(self):
        if self.steps_done == step - 1:
            raise error
        return take_step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.mark.parametrize(("stop_at", "kept"), [(4, True), (2, False)])
def test_interrupt_keeps_the_last_checkpoint_or_nothing(plan, tmp_path, monkeypatch, stop_at, kept):
    _interrupt_at(monkeypatch, stop_at)
    with pytest.raises(TrainingInterruptedError, match="step 2, go on with" if kept else "nothing was written"):
        run_training(plan, tmp_path / "run")
    assert (tmp_path / "run").exists() == kept
    if kept:
        load_checkpoint(tmp_path / "run")


def test_interrupt_before_the_first_evaluation_spares_an_earlier_run(plan, tmp_path, monkeypatch):
    run_training(plan, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    _interrupt_at(monkeypatch, 2)
    with pytest.raises(TrainingInterruptedError):
        run_training(plan, tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupt_during_a_save_waits_for_its_end(plan, tmp_path, monkeypatch, overwrite):
    if overwrite:
        run_training(plan, tmp_path)
    write_config = CheckpointFolder.write_config

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        write_config(self)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "write_config", interrupted)
        with pytest.raises(TrainingInterruptedError, match="keeps the checkpoint of step 2"):
            run_training(plan, tmp_path, overwrite=overwrite)
    load_checkpoint(tmp_path)
    resume_training(tmp_path, "cpu")
    assert CheckpointFolder.open(tmp_path).origin["trained"]["at_step"] == 4


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(plan, tmp_path, monkeypatch):
    run_training(plan, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)  # nothing is tidied up, as after kill -9
        with pytest.raises(RuntimeError):
            run_training(plan, tmp_path / "cut")
    torch.manual_seed(99)
    resume_training(tmp_path / "cut", "cpu")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_training_computes_with_the_threads_and_the_kernel_of_its_plan(plan, tmp_path, monkeypatch):
    seen, step = set(), Trainer.step

    def watched(self):
        seen.add((kernel_threads(), self.settings.kernel))
        return step(self)

    monkeypatch.setattr(Trainer, "step", watched)
    settings = dataclasses.replace(plan.settings, threads=3, kernel="tiles")
    run_training(dataclasses.replace(plan, settings=settings), tmp_path / "run")
    assert seen == {(3, "tiles")}
    assert CheckpointFolder.open(tmp_path / "run").origin["trained"]["threads"] == 3


def test_resumed_run_can_take_other_threads(plan, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(plan, tmp_path)
    resume_training(tmp_path, "cpu", threads=2)
    assert CheckpointFolder.open(tmp_path).origin["trained"]["threads"] == 2


def test_steps_that_become_slow_are_told(plan, tmp_path, monkeypatch):
    hints = iter([None, None, "steps take 9 times as long", None])
    monkeypatch.setattr(SlowSteps, "note", lambda self, seconds: next(hints))
    with pytest.warns(FallbackWarning, match="steps take 9 times as long"):
        run_training(plan, tmp_path)


def test_what_cannot_be_resumed_is_one_clear_error(plan, tmp_path):
    with pytest.raises(CheckpointError, match=r"no training\.safetensors"):
        resume_training(tmp_path)
    run_training(plan, tmp_path)
    with pytest.raises(TrainingError, match="has ended after 4 steps"):
        resume_training(tmp_path)
    (tmp_path / "training.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="corrupt training state"):
        resume_training(tmp_path)


@pytest.mark.slow
def test_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path):
    sizes = "--length 3 --steps 90 --batch 8 --evaluate-every 3 --blocks 1"
    options = [*sizes.split(), "--device", "cpu", "-o"]
    train = [sys.executable, "-m", "causalrn", "train"]
    subprocess.run([*train, *options, tmp_path / "whole"], cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen([*train, *options, tmp_path / "cut"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "cut" / "training.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (tmp_path / "cut" / ".cut.abcdefgh.partial").mkdir(exist_ok=True)  # as it may leave
    resume_training(tmp_path / "cut", "cpu")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.parametrize("damage", [b"garbage\n", b"[1]\n", b"{}\n", b'{"step": "a"}\n', b"\xe2\x00\n", b'{"step": 1'])
def test_damaged_log_does_not_stop_resuming(plan, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(plan, tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes() + damage)
    resume_training(tmp_path / "run", "cpu")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize("write", ["save_weights", "write_training_state", "CheckpointFolder.write_config"])
def test_save_that_fails_leaves_the_one_before(plan, tmp_path, monkeypatch, write):
    run_training(plan, tmp_path / "whole")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(plan, tmp_path / "cut")
    before = {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(f"causalrn.workflows.training_run.{write}", full)
        with pytest.raises(OSError, match="No space left") as raised:
            resume_training(tmp_path / "cut", "cpu")
    assert raised.value.filename == str(tmp_path / "cut")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()} == before
    resume_training(tmp_path / "cut", "cpu")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_full_disk_at_the_first_save_leaves_the_earlier_run_whole(plan, tmp_path, monkeypatch):
    run_training(plan, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "write_config", full)
        with pytest.raises(OSError, match="No space left"):
            run_training(plan, tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run_training(plan, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"the quick brown fox. " * 100)
    return path


def test_text_is_learned_and_judged_by_its_bytes(monkeypatch, tmp_path, text):
    monkeypatch.setattr(training_run, "_FINAL", 20)
    options = {"steps": 60, "batch": 16, "evaluate_every": 60, "device": "cpu", "model": {"readout": "linear"}}
    plan = TrainingPlan.from_options(task=TextTask(16, Corpus.open(text)), **options)
    result = run_training(plan, tmp_path / "run")
    forced = result.evaluation.teacher_forced
    assert (forced.unit, forced.counted) == ("bytes", 20 * 16)
    assert forced.accuracy > 0.5
    assert "bits per byte" in result.summary()
    card = load_checkpoint(tmp_path / "run").card
    assert (card.alphabet.name, card.task, card.task.has_source) == ("bytes", TextTask(16), False)
    assert str(tmp_path) not in (tmp_path / "run" / "config.json").read_text()


def test_text_that_changed_is_not_resumed(monkeypatch, tmp_path, text):
    monkeypatch.setattr(training_run, "_QUICK", 4)
    options = {"steps": 4, "batch": 4, "evaluate_every": 2, "device": "cpu"}
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(TrainingPlan.from_options(task=TextTask(9, Corpus.open(text)), **options), tmp_path / "run")
    content = text.read_bytes()
    text.unlink()
    with pytest.raises(InputError, match="no such file: name a file with text; the training began with this text"):
        resume_training(tmp_path / "run", "cpu")
    text.write_bytes(b"another text " * 200)
    with pytest.raises(InputError, match="not the text that the training began with"):
        resume_training(tmp_path / "run", "cpu")
    text.write_bytes(content)
    resume_training(tmp_path / "run", "cpu")


def test_training_stops_early_at_the_accuracy_asked_for(plan, tmp_path, monkeypatch):
    perfect = TaskAccuracy("strings", 10, 10, 40, 40)
    monkeypatch.setattr(training_run, "evaluate", lambda *args: Evaluation(perfect, perfect))
    result = run_training(dataclasses.replace(plan, until=0.9), tmp_path)
    assert result.steps == 2
    with pytest.raises(TrainingError, match="has ended after 2 steps"):
        resume_training(tmp_path, "cpu")
    with pytest.raises(InputError, match="`until` is 95"):
        dataclasses.replace(plan, until=95)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "model.safetensors").unlink(), r"no model\.safetensors"),
        (lambda run: (run / "model.safetensors").write_bytes(b"12345678"), "content differs from the SHA-256"),
        (lambda run: (run / "config.json").write_text("{}"), "not a causalrn-run"),
        (
            lambda run: shutil.copy(GOLDEN / "official_exact_copy8.pth", run / "model.safetensors"),
            "SHA-256",
        ),
        (lambda run: (run / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_spoiled_run_is_one_clear_error(plan, tmp_path, spoil, message):
    run_training(plan, tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)
