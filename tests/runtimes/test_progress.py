"""Progress in logs: a line at every eighth of long work, with what the rest takes at the pace of the last one."""

import time

import pytest

from causalrn.runtimes import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", 2.0)
    return now


def test_remaining_time_follows_the_last_pace(clock, capsys):
    with progress.show_progress("train", 80) as advance:
        for seconds in [0.1] * 20 + [1.0] * 40 + [30.0] * 10 + [0.1] * 10:
            clock[0] += seconds
            advance(1, "loss 1")
    assert capsys.readouterr().err.splitlines() == [
        "train 30/80, 20 s left, loss 1",  # 12 s for 30
        "train 40/80, 40 s left, loss 1",
        "train 50/80, 30 s left, loss 1",
        "train 60/80, 20 s left, loss 1",
        "train 70/80, 5 min left, loss 1",
        "train 80/80, loss 1",
    ]


def test_short_work_leaves_nothing(clock, capsys):
    with progress.show_progress("split", 8) as advance:
        for _ in range(8):
            clock[0] += 0.1
            advance(1)
    assert capsys.readouterr().err == ""
