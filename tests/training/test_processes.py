"""Training in several processes: one run, the gradients of one process, and one clear error."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from causalrn.errors import TrainingError
from causalrn.model.sequence_model import SequenceModel
from causalrn.training.checkpoint import load_checkpoint
from causalrn.training.loop import PRESETS, Trainer, TrainingSettings
from causalrn.training.processes import Processes, joined_processes
from causalrn.training.tasks import CopyMixedTask, CopyTask
from tests.builders import ROOT, gradients_of

SETTINGS = TrainingSettings(steps=25, batch=15, learning_rate=5e-3, warmup=5)


_TWO_PROCESSES = """
import sys, torch
from causalrn.training.processes import joined_processes
from tests.builders import gradients_of
from tests.training.test_processes import _mixed_trainer

with joined_processes("cpu") as processes:
    trainer = _mixed_trainer(processes)
    loss = trainer.step().loss
    if processes.is_first:
        torch.save((loss, gradients_of(trainer.model)), sys.argv[1])
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
    assert (gradients - gradients_of(alone.model)).abs().max() <= 1e-6 * gradients.abs().max()


@pytest.mark.cases(0)
@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    command = "-m causalrn train --length 3 --steps 4 --batch 9 --evaluate-every 2 --device cpu -o"
    process = _torchrun(*command.split(), tmp_path / "run")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("wrote ") == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    load_checkpoint(tmp_path / "run")


@pytest.mark.cases(0)
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
    process = _torchrun("-m", "causalrn", "train", *options, tmp_path / "run")
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
