"""Training: it learns, repeats itself, and keeps or refuses what it should."""

import dataclasses
import json

import pytest
import torch

from causalrn.checkpoint import load_checkpoint
from causalrn.errors import CheckpointError, InputError, TrainingError
from causalrn.export.cli import training_run
from causalrn.export.cli.training_run import TrainingPlan, run_training
from causalrn.model import CausalRN
from causalrn.tasks import CopyTask
from causalrn.training import PRESETS, TrainingSettings, choose_device, train

SETTINGS = TrainingSettings(steps=25, batch=16, learning_rate=5e-3, warmup=5)


def _train(settings=SETTINGS):
    torch.manual_seed(0)
    task = CopyTask(3)
    model = CausalRN(dataclasses.replace(PRESETS["tiny"].model(task, "exact"), blocks=1))
    return [step.loss for step in train(model, task, settings)], model


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(training_run, "_FINAL_STRINGS", 20)
    monkeypatch.setattr(training_run, "_QUICK_STRINGS", 10)
    return TrainingPlan.from_options(length=3, steps=4, batch=4, evaluate_every=2, device="cpu")


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
    model = CausalRN(PRESETS["tiny"].model(task, "exact"))
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    with pytest.raises(TrainingError, match="at step 1: lower the learning rate"):
        list(train(model, task, SETTINGS))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"seed": -1}])
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
    assert lines[-1]["teacher_forced"]["strings"] == result.free_running.strings == 20
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.card == plan.card


def test_earlier_run_is_kept_unless_asked(plan, tmp_path):
    run_training(plan, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="add --overwrite"):
        run_training(plan, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    run_training(plan, tmp_path, overwrite=True)


@pytest.mark.parametrize(("stop_at", "kept"), [(3, True), (1, False)])
def test_interrupt_keeps_the_last_checkpoint_or_nothing(plan, tmp_path, monkeypatch, stop_at, kept):
    def interrupted(*args):
        for step in train(*args):
            if step.step == stop_at:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(training_run, "train", interrupted)
    with pytest.raises(InputError, match="step 2" if kept else "nothing was kept"):
        run_training(plan, tmp_path / "run")
    assert (tmp_path / "run").exists() == kept
    if kept:
        load_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "model.safetensors").unlink(), r"no model\.safetensors"),
        (lambda run: (run / "model.safetensors").write_bytes(b"12345678"), "corrupt safetensors"),
        (lambda run: (run / "config.json").write_text("{}"), "not a causalrn-run"),
        (lambda run: (run / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_spoiled_run_is_one_clear_error(plan, tmp_path, spoil, message):
    run_training(plan, tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)
