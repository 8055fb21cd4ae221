"""Training: it learns, repeats itself, and keeps or refuses what it should."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from causalrn.checkpoint import load_checkpoint
from causalrn.config import TransformerConfig
from causalrn.distributed import Processes, joined_processes
from causalrn.errors import CheckpointError, InputError, TrainingError, TrainingInterruptedError
from causalrn.export.cli import training_run
from causalrn.export.cli.training_plan import TrainingPlan
from causalrn.export.cli.training_run import Evaluation, resume_training, run_training
from causalrn.files import written_file
from causalrn.model import SequenceModel
from causalrn.pair_sum import pair_sum
from causalrn.run_folder import RunFolder
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.tasks import CopyMixedTask, CopyTask, Corpus, TextTask
from causalrn.training import PRESETS, Trainer, TrainingSettings, choose_device
from tests.builders import GOLDEN

ROOT = Path(__file__).parents[2]
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
    other = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, seed=7))
    run_training(other, tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_states_of_a_trainer_are_copies():
    task = CopyTask(3)
    first, second = (Trainer(SequenceModel(PRESETS["tiny"].model(task, blocks=1)), task, SETTINGS) for _ in range(2))
    first.step()
    state = first.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    first.step()
    second.load_state(state)
    second.step()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())


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


def _gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


_TWO_PROCESSES = """
import sys, torch
from causalrn.distributed import joined_processes
from tests.causalrn.test_training import _gradients, _mixed_trainer

with joined_processes("cpu") as processes:
    trainer = _mixed_trainer(processes)
    loss = trainer.step().loss
    if processes.is_first:
        torch.save((loss, _gradients(trainer.model)), sys.argv[1])
"""


def _mixed_trainer(processes=None):
    """Strings of mixed lengths: shares of a batch then hold different numbers of targets."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = CopyMixedTask(5)
    model = SequenceModel(PRESETS["tiny"].model(task, blocks=2))
    return Trainer(model, task, dataclasses.replace(SETTINGS, accumulate=2), processes)


def _torchrun(*arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path):
    (tmp_path / "script.py").write_text(_TWO_PROCESSES)
    process = _torchrun(tmp_path / "script.py", tmp_path / "two.pt", env={**os.environ, "PYTHONPATH": str(ROOT)})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    loss, gradients = torch.load(tmp_path / "two.pt")
    alone = _mixed_trainer()
    assert alone.step().loss == pytest.approx(loss, rel=1e-6)
    assert (gradients - _gradients(alone.model)).abs().max() <= 1e-6 * gradients.abs().max()


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    command = "-m causalrn.export.cli train --length 3 --steps 4 --batch 9 --evaluate-every 2 --device cpu -o"
    process = _torchrun(*command.split(), tmp_path / "run")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("wrote ") == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    load_checkpoint(tmp_path / "run")


@pytest.mark.slow
def test_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path):
    sizes = "--length 3 --steps 300 --batch 8 --evaluate-every 3 --blocks 1"
    options = [*sizes.split(), "--device", "cpu", "-o"]
    train = [sys.executable, "-m", "causalrn.export.cli", "train"]
    subprocess.run([*train, *options, tmp_path / "whole"], cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen([*train, *options, tmp_path / "cut"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "cut" / "training.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (tmp_path / "cut" / ".model.safetensors.x.partial").write_text("half")  # as it may leave
    resume_training(tmp_path / "cut", "cpu")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.slow
def test_lost_process_is_one_clear_error(tmp_path):
    options = [
        "--length",
        "3",
        "--steps",
        "1000000",
        "--batch",
        "8",
        "--evaluate-every",
        "20",
        "--blocks",
        "1",
        "--device",
        "cpu",
        "-o",
    ]
    process = _torchrun("-m", "causalrn.export.cli", "train", *options, tmp_path / "run")
    while not (tmp_path / "run" / "training.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {int(dict(e.split("=", 1) for e in _environment(pid) if "=" in e)["RANK"]): int(pid) for pid in workers}
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert "[rank0]" not in output
    load_checkpoint(tmp_path / "run")


def _environment(pid):
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.mark.parametrize("size", ["abc", "", "0"])
def test_environment_that_is_not_torchruns_is_refused(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(TrainingError, match="start with torchrun"), joined_processes("cpu"):
        pass


def test_too_few_sequences_for_all_processes_are_refused():
    with pytest.raises(TrainingError, match="15 sequences per step are too few for 16 processes"):
        Trainer(SequenceModel(PRESETS["tiny"].model(CopyTask(3))), CopyTask(3), SETTINGS, Processes(0, 16))


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"readout": "exact"}, True),
        ({"readout": "linear"}, True),
        ({"kind": TransformerConfig, "attention": "softmax"}, False),  # PyTorch's own attention chooses for itself
        ({"kind": TransformerConfig, "attention": "linear"}, True),
    ],
    ids=str,
)
def test_bfloat16_trains_with_products_in_bfloat16_and_readouts_in_float32(options, reads, monkeypatch):
    seen = set()

    def recorded(original):
        def record(x, *args, **options):
            seen.add(x.dtype)
            return original(x, *args, **options)

        return record

    for name in ("cumsum", "tril"):  # what sums over the past in linear readout and attention
        monkeypatch.setattr(torch.Tensor, name, recorded(getattr(torch.Tensor, name)))
    monkeypatch.setattr("causalrn.parallel_readout.pair_sum", recorded(pair_sum))
    losses = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = SequenceModel(PRESETS["tiny"].model(CopyTask(3), **options, blocks=1))
        trainer = Trainer(model, CopyTask(3), dataclasses.replace(SETTINGS, precision=precision))
        losses.append(trainer.step().loss)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert _gradients(model).isfinite().all()
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert seen == ({torch.float32} if reads else set())


def test_gradient_that_is_not_finite_spares_the_weights():
    model = SequenceModel(PRESETS["tiny"].model(CopyTask(3), blocks=1))
    model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(TrainingError, match=r"the gradient became .* at step 1: lower the learning rate"):
        Trainer(model, CopyTask(3), SETTINGS).step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupt_during_a_save_waits_for_its_end(plan, tmp_path, monkeypatch, overwrite):
    if overwrite:
        run_training(plan, tmp_path)
    write_config = RunFolder.write_config

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        write_config(self)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_config", interrupted)
        with pytest.raises(TrainingInterruptedError, match="keeps the checkpoint of step 2"):
            run_training(plan, tmp_path, overwrite=overwrite)
    load_checkpoint(tmp_path)
    resume_training(tmp_path, "cpu")
    assert RunFolder.open(tmp_path).origin["trained"]["at_step"] == 4


def test_constant_schedule_stays_at_its_peak():
    settings = dataclasses.replace(SETTINGS, schedule="constant")
    assert {settings.rate_at(step) for step in range(4, 25)} == {5e-3}


def test_compiling_pairs_is_refused():
    task = CopyTask(3)
    with pytest.raises(TrainingError, match=r"compile and exact\+exp contradict each other"):
        Trainer(SequenceModel(PRESETS["tiny"].model(task)), task, dataclasses.replace(SETTINGS, compile=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler imports what torch has deprecated
def test_compiled_model_has_the_same_gradients(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # all but the C++
    task, gradients = CopyTask(3), []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = SequenceModel(PRESETS["tiny"].model(task, readout="linear", blocks=1))
        trainer = Trainer(model, task, dataclasses.replace(SETTINGS, compile=compiled))
        trainer.step()
        gradients.append(_gradients(model))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
def test_compiling_without_a_compiler_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nonexistent"))
    task = CopyTask(3)
    model = SequenceModel(PRESETS["tiny"].model(task, readout="linear", blocks=1))
    trainer = Trainer(model, task, dataclasses.replace(SETTINGS, compile=True))
    with pytest.raises(TrainingError, match="install a C\\+\\+ compiler, or leave out --compile"):
        trainer.step()


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


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "training.safetensors"])
def test_last_save_that_fails_is_made_up_for_by_resuming(plan, tmp_path, monkeypatch, file):
    run_training(plan, tmp_path / "whole")

    def full(path):
        if path.name == file and json.loads((tmp_path / "cut" / "config.json").read_text())["origin"]:
            raise OSError(28, "No space left on device", str(path))
        return written_file(path)

    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(plan, tmp_path / "cut")
    with monkeypatch.context() as patch:
        for module in ("causalrn.export.cli.training_run", "causalrn.run_folder", "causalrn.checkpoint"):
            patch.setattr(f"{module}.written_file", full)
        with pytest.raises(OSError, match="No space left"):
            resume_training(tmp_path / "cut", "cpu")
    resume_training(tmp_path / "cut", "cpu")
    load_checkpoint(tmp_path / "cut")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_text_that_changed_is_not_resumed(monkeypatch, tmp_path, text):
    monkeypatch.setattr(training_run, "_QUICK", 4)
    options = {"steps": 4, "batch": 4, "evaluate_every": 2, "device": "cpu"}
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 4, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run_training(TrainingPlan.from_options(task=TextTask(9, Corpus.open(text)), **options), tmp_path / "run")
    content = text.read_bytes()
    text.unlink()
    with pytest.raises(InputError, match="no such file; the training began with this text: put it back"):
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
