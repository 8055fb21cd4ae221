"""Training: it learns, repeats itself, and keeps or refuses what it should."""

import dataclasses
import json
import shutil

import pytest
import torch

from causalrn.checkpoint import load_checkpoint
from causalrn.errors import CheckpointError, InputError, TrainingError, TrainingInterruptedError
from causalrn.export.cli import training_run
from causalrn.export.cli.training_plan import TrainingPlan
from causalrn.export.cli.training_run import Evaluation, resume_training, run_training
from causalrn.model import SequenceModel
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.tasks import CopyTask
from causalrn.training import PRESETS, Trainer, TrainingSettings, choose_device
from tests.builders import GOLDEN

SETTINGS = TrainingSettings(steps=25, batch=15, learning_rate=5e-3, warmup=5)


def _train(settings=SETTINGS):
    torch.manual_seed(0)
    task = CopyTask(3)
    model = SequenceModel(dataclasses.replace(PRESETS["tiny"].model(task), blocks=1))
    trainer = Trainer(model, task, settings)
    return [trainer.step().loss for _ in range(settings.steps)], model


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(training_run, "_FINAL", 20)
    monkeypatch.setattr(training_run, "_QUICK", 10)
    return TrainingPlan.from_options(task=CopyTask(3), steps=4, batch=4, evaluate_every=2, device="cpu")


def test_loss_falls_and_a_seed_repeats_it():
    (first, model), (again, twin) = _train(), _train()
    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert first[-1] < 0.8 * first[0]


def test_rate_warms_up_and_decays():
    rates = [SETTINGS.rate_at(step) for step in range(25)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(5e-3)
    assert rates[-1] == pytest.approx(5e-4, rel=0.2)


def test_loss_that_is_not_finite_stops_training():
    task = CopyTask(3)
    model = SequenceModel(PRESETS["tiny"].model(task))
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    with pytest.raises(TrainingError, match="at step 1: lower the learning rate"):
        Trainer(model, task, SETTINGS).step()


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"seed": -1}, {"accumulate": 17}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(TrainingError):
        dataclasses.replace(SETTINGS, **changes)


def test_unknown_device_is_refused():
    with pytest.raises(TrainingError, match="device 'abacus' cannot be used here"):
        choose_device("abacus")


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
    with pytest.raises(InputError, match="add --overwrite"):
        run_training(plan, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    run_training(plan, tmp_path, overwrite=True)


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


def test_what_cannot_be_resumed_is_one_clear_error(plan, tmp_path):
    with pytest.raises(CheckpointError, match=r"no training\.safetensors"):
        resume_training(tmp_path)
    run_training(plan, tmp_path)
    with pytest.raises(TrainingError, match="has ended after 4 steps"):
        resume_training(tmp_path)
    (tmp_path / "training.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="corrupt training state"):
        resume_training(tmp_path)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    gradients = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        task = CopyTask(3)
        model = SequenceModel(PRESETS["tiny"].model(task)).double()
        trainer = Trainer(model, task, dataclasses.replace(SETTINGS, accumulate=accumulate, learning_rate=1e-9))
        trainer.step()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-14)


def test_training_stops_early_at_the_accuracy_asked_for(plan, tmp_path, monkeypatch):
    perfect = TaskAccuracy("strings", 10, 10, 40, 40)
    monkeypatch.setattr(training_run, "evaluate", lambda *args: Evaluation(perfect, perfect))
    result = run_training(dataclasses.replace(plan, until=0.9), tmp_path)
    assert result.steps == 2
    with pytest.raises(InputError, match="--until is 95"):
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
