"""Threads: how many are free, who takes them, and when it is said that they are in each other's way."""

import psutil
import pytest
import torch

from causalrn.model.operators.c_library import kernel_threads
from causalrn.training import threads
from causalrn.training.threads import SlowSteps, computing_with, default_threads, free_cores


def machine(monkeypatch, physical, logical, allowed, busy_percent):
    counts = {True: logical, False: physical}
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: counts[logical])
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy_percent)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(allowed)), raising=False)


@pytest.mark.parametrize(
    ("physical", "logical", "allowed", "busy_percent", "free"),
    [
        (8, 16, 16, 0, 8),
        (8, 16, 16, 50, 4),
        (8, 16, 4, 0, 2),  # a container with four of the logical ones
        (2, 2, 2, 100, 1),
        (2, 2, 2, 40, 1),
        (None, 2, 2, 0, 2),  # not every system tells
        (1, 2, 1, 0, 1),
    ],
)
def test_free_cores_are_physical_allowed_and_idle(monkeypatch, physical, logical, allowed, busy_percent, free):
    machine(monkeypatch, physical, logical, allowed, busy_percent)
    assert free_cores() == free


def test_default_is_what_the_user_has_told_openmp(monkeypatch):
    monkeypatch.setattr(threads, "free_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads() == torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == 7


@pytest.mark.parametrize(("multiplications", "of_pytorch"), [(1 << 20, 1), (1 << 27, 3)])
def test_only_large_products_take_threads_of_pytorch(multiplications, of_pytorch):
    before = torch.get_num_threads()
    with computing_with(3, multiplications):
        assert (torch.get_num_threads(), kernel_threads()) == (of_pytorch, 3)
    assert torch.get_num_threads() == kernel_threads() == before


def test_slow_steps_are_told_once_and_the_first_one_does_not_count():
    watch = SlowSteps(2)
    assert [watch.note(seconds) for seconds in [9.0] + 40 * [0.1]] == 41 * [None]
    hints = [hint for hint in map(watch.note, 40 * [0.9]) if hint]
    assert len(hints) == 1, "when half of the last steps are slow"
    assert "5 times as long" in hints[0]
    assert "2 threads wait for each other; interrupt and resume with `threads` 1" in hints[0]


def test_with_one_thread_the_hint_is_another():
    watch = SlowSteps(1)
    hints = [hint for hint in map(watch.note, 20 * [0.1] + 20 * [0.5]) if hint]
    assert hints == ["steps take 5 times as long as at the start: other processes need this processor"]


def test_single_slow_steps_are_no_reason():
    watch = SlowSteps(2)
    assert not any(watch.note(seconds) for seconds in 10 * [0.1] + 30 * [0.1, 0.1, 5.0])
