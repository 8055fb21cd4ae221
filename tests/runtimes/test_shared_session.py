"""One session and several threads: a clear error, never a mixed state or freed memory."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from causalrn.errors import CapacityError, RuntimeUnavailableError, SharedSessionError
from causalrn.runtimes import open_session
from tests.c_tools import HAS_C_COMPILER

RUNTIMES = ("parallel", "recurrent", "onnxruntime", *(["native"] if HAS_C_COMPILER else []))
TOKEN = np.array([3])


@pytest.fixture(params=["exact", "linear"])
def readout(request):
    return request.param


@pytest.fixture(params=RUNTIMES)
def opened(request, readout, runs, bundles):
    """A function that opens a session."""
    folders = {"parallel": runs, "recurrent": runs, "onnxruntime": bundles}
    if request.param == "native":
        folders["native"] = request.getfixturevalue("c_bundles")
    return lambda: open_session(folders[request.param][readout], request.param)


@pytest.fixture
def often_switched():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_every_call_beside_another_threads_is_refused_and_does_nothing(opened, tmp_path):
    running, go_on = threading.Event(), threading.Event()
    with opened() as session, ThreadPoolExecutor(1) as other:
        expected = [session.step(TOKEN), session.step(TOKEN)]
        fresh = session.snapshot()
        session.reset()
        advance = session._advance

        def wait(tokens, *, single):
            running.set()
            assert go_on.wait(60)
            return advance(tokens, single=single)

        session._advance = wait
        first = other.submit(session.step, TOKEN)
        assert running.wait(60)
        calls = (
            lambda: session.step(TOKEN),
            lambda: session.prefill([[3, 4]]),
            lambda: session.reset(2),
            session.snapshot,
            lambda: session.restore(fresh),
            lambda: session.save(tmp_path / "state"),
            lambda: list(session.generate("abc", max_new_tokens=1)),
            lambda: session.probing().__enter__(),
        )
        for index in range(1000):
            with pytest.raises(SharedSessionError, match="two threads call one session"):
                calls[index % len(calls)]()
        go_on.set()
        assert np.array_equal(first.result(), expected[0])
        assert not list(tmp_path.iterdir())
        assert np.array_equal(session.step(TOKEN), expected[1]), "one after the other any thread may call"


def test_two_threads_that_race_get_right_logits_or_the_error(opened, often_switched):
    with opened() as session:
        expected = {session.step(TOKEN).tobytes() for _ in range(session.capacity)}

        def hammer():
            refused, wrong = 0, 0
            for _ in range(500):
                try:
                    wrong += session.step(TOKEN).tobytes() not in expected
                except SharedSessionError:
                    refused += 1
                except CapacityError:
                    try:
                        session.reset()
                    except SharedSessionError:
                        refused += 1
            return refused, wrong

        with ThreadPoolExecutor(2) as threads:
            results = [task.result() for task in [threads.submit(hammer) for _ in range(2)]]
    assert sum(wrong for _, wrong in results) == 0


def test_closing_waits_for_a_call_of_another_thread(opened, often_switched):
    def step_on(session, begun):
        while True:
            begun.set()
            try:
                if session.position == session.capacity:
                    session.reset()
                session.step(TOKEN)
            except SharedSessionError:  # it is being closed
                continue
            except RuntimeUnavailableError as error:
                return str(error)

    with ThreadPoolExecutor(1) as other:
        for _ in range(5):
            begun = threading.Event()
            with opened() as session:
                task = other.submit(step_on, session, begun)
                assert begun.wait(60)
            assert "has been closed" in task.result()
