"""What fails leaves the session as it was, and the GPU with nothing left over."""

import dataclasses
import gc

import numpy as np
import pytest

from causalrn.errors import CapacityError, GpuFailureError, InputError, NonFiniteError, NotExecutedError, StateError
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes.trt.trt_session import Gpu, TensorRTSession
from tests.runtimes.trt.fake_gpu import FakeContext, FakeDevice, FakeEngines, fake_compile
from tests.runtimes.trt.rollouts import CAPACITY, KINDS, same_state, tokens_of


@pytest.mark.parametrize("kind", KINDS)
def test_failed_step_leaves_the_state_as_it_was(kind, opened, monkeypatch):
    session, expected = opened(kind)
    for token in (3, 4, 5):
        session.step([token])
        expected.step([token])
    before = session.snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(session._exchange, "receive", lambda batch, time: np.full((batch, time, 29), np.nan, np.float32))
        with pytest.raises(NonFiniteError):
            session.step([6])
        session._device.synchronize()
    assert session.position == 3
    after = session.snapshot()
    for name, value in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], value)
    for token in (7, 8, 9):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))


@pytest.mark.parametrize("kind", KINDS)
def test_failed_prefill_goes_back_over_all_its_chunks(kind, opened, monkeypatch):
    session, expected = opened(kind, dataclasses.replace(KINDS[kind], prefill_chunk=4))
    for running in (session, expected):
        running.step([3])
    before = session.snapshot()
    real, calls = session._exchange.receive, []

    def receive(batch, time):
        calls.append(time)
        logits = real(batch, time)
        return logits if len(calls) < 4 else np.full_like(logits, np.inf)

    with monkeypatch.context() as patch:
        patch.setattr(session._exchange, "receive", receive)
        with pytest.raises(NonFiniteError):
            session.prefill(tokens_of(1, 19, 8))
    assert calls == [4, 4, 4, 4], "three chunks had been taken"
    after = session.snapshot()
    assert after.position == 1
    for name, value in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], value)
    np.testing.assert_array_equal(session.step([4]), expected.step([4]))
    same_state(session, expected)


def test_capacity_is_a_clear_error_and_nothing_is_lost(opened):
    session, expected = opened("fixed")
    tokens = tokens_of(1, CAPACITY, 9)
    session.prefill(tokens)
    with pytest.raises(CapacityError, match="1 more positions after 40 exceed the capacity of 40"):
        session.step([1])
    expected.prefill(tokens)
    same_state(session, expected)


def test_more_sequences_than_compiled_for_are_refused(opened):
    session, _ = opened("fixed", Sizes(max_batch=2))
    with pytest.raises(InputError, match="batch is 3, and this session takes 2 sequences at most"):
        session.reset(3)
    session.reset(2)
    taken = session.snapshot()
    with pytest.raises(StateError, match="3 sequences, this session takes 2 at most"):
        session.restore(dataclasses.replace(taken, batch=3))


@pytest.mark.parametrize("kind", ["fixed", "growing", "linear"])
@pytest.mark.parametrize("taken", [1, 2, 3, 4, 5], ids=lambda taken: f"after{taken}")
def test_step_that_cannot_run_changes_nothing_and_may_be_tried_again(kind, taken, opened, monkeypatch):
    """Whether it would have run, been recorded or replayed."""
    session, expected = opened(kind)
    for token in range(taken):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    if taken < {"fixed": 2, "linear": 4}.get(kind, 99):  # later, what was recorded is replayed
        with monkeypatch.context() as patch:
            patch.setattr(FakeContext, "fails", True)
            with pytest.raises(GpuFailureError, match="TensorRT could not run the engine"):
                session.step([9])
        assert session.position == taken
    for token in range(9, 16):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    same_state(session, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_that_finds_no_memory_leaves_the_session_as_it_was(kind, opened):
    session, expected = opened(kind)
    for token in range(4):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    device = session._device
    taken = dict(device.memory)
    for room in range(0, 4096, 512):
        device.room = sum(device.sizes.values()) + room
        with pytest.raises(GpuFailureError, match="out of memory"):
            session.reset(9)
        assert device.memory.keys() == taken.keys(), "what was allocated is given back"
        assert (session.position, session.batch) == (4, 1)
    device.room = None
    for token in range(4, 9):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    same_state(session, expected)


def test_exchange_that_finds_no_memory_leaves_the_session_as_it_was(opened):
    session, expected = opened("fixed")
    device = session._device
    device.room = sum(device.sizes.values()) + 300
    with pytest.raises(GpuFailureError, match="out of memory"):
        session.step([1])
    assert device.counts["host"] == 0
    device.room = None
    np.testing.assert_array_equal(session.step([1]), expected.step([1]))


def test_state_that_finds_no_memory_is_not_opened(sources, tmp_path, monkeypatch):
    compiled = fake_compile(sources["fixed"], tmp_path / "engine", monkeypatch)
    device = FakeDevice()
    device.room = 4000
    with pytest.raises(NotExecutedError, match="no room for its state: out of memory"):
        TensorRTSession(compiled, gpu=Gpu(device, FakeEngines(sources["fixed"], compiled, device)))
    assert device.closed
    assert not device.memory


def test_close_goes_on_after_a_failure(opened, monkeypatch):
    session, _ = opened("fixed")
    session.step([1])
    device, engines = session._device, session._engines

    def fails():
        raise GpuFailureError("an earlier launch")

    monkeypatch.setattr(device, "synchronize", fails)
    session.close()
    session.close()
    assert engines.closed == 1, "the runtime cache is written all the same"


def test_close_gives_everything_back_once(opened):
    session, _ = opened("fixed")
    session.prefill(tokens_of(1, 5, 1))
    for token in range(4):
        session.step([token])
    device, engines = session._device, session._engines
    session.close()
    session.close()
    assert device.closed
    assert engines.closed == 1
    assert not device.memory
    assert device.counts["host"] == device.counts["graphs"] == 0
    gc.collect()
