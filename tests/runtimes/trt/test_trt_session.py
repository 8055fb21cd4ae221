"""The session's addresses, staging and state, against onnxruntime: see fake_gpu.py for what stands in for the GPU."""

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.trt_flavors import FLAVORS
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes.trt import device_state
from tests.runtimes.trt.fake_gpu import FakeContext
from tests.runtimes.trt.rollouts import CAPACITY, KINDS, same_state, tokens_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_full_rollout_equals_onnxruntime_bit_for_bit(kind, batch, opened):
    session, expected = opened(kind)
    tokens = tokens_of(batch, CAPACITY, 3)
    session.reset(batch)
    expected.reset(batch)
    for column in tokens.T:
        np.testing.assert_array_equal(session.step(column), expected.step(column))
    same_state(session, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_and_steps_in_turn_equal_onnxruntime(kind, opened):
    session, expected = opened(kind)
    tokens = tokens_of(2, CAPACITY, 4)
    for running in (session, expected):
        running.reset(2)
    start = 0
    for length in (5, 1, 1, 17, 1, 9, 6):
        chunk = tokens[:, start : start + length]
        np.testing.assert_array_equal(session.prefill(chunk), expected.prefill(chunk))
        start += length
    assert start == CAPACITY
    same_state(session, expected)


def test_rows_reach_all_pools_by_one_copy_after_the_graph(opened):
    session, _ = opened("fixed")
    session.step([1])
    device = session._device
    device.counts.clear()
    session.step([2])
    assert device.counts["copy"] == 1, "one copy moves the rows of all blocks"
    assert device.counts["to_device"] == 1
    assert device.counts["to_host"] == 1
    assert device.counts["synchronize"] == 1
    kinds = [operation.__qualname__.split(".")[1] for operation in device.queue]
    assert kinds == ["copy"], "the copy waits behind the logits, and is not waited for"


@pytest.mark.parametrize("kind", KINDS)
def test_addresses_stay_and_nothing_is_allocated_while_stepping(kind, opened):
    session, _ = opened(kind)
    for token in (1, 2, 3):
        session.step([token])
    allocated = session._device.counts["allocate"]
    contexts = list(session._engines.contexts)
    addresses = [dict(context.addresses) for context in contexts]
    for token in range(CAPACITY - 4):
        session.step([token % 29])
    assert session._device.counts["allocate"] == allocated
    assert [context.addresses for context in contexts] == addresses
    session.reset(1)
    session.step([5])
    assert session._device.counts["allocate"] == allocated, "a reset keeps the memory"


@pytest.mark.parametrize("kind", ["fixed", "linear", "plain"])
def test_steps_of_one_shape_are_recorded_and_replayed(kind, opened):
    session, expected = opened(kind)
    sides = 1 if kind == "fixed" else 2
    for token in range(12):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    assert session.replays == 12 - 2 * sides, "per side, the first step runs and the second is recorded"
    assert session._device.counts["launch"] == 12 - sides


def test_growing_pools_are_not_recorded(opened):
    session, _ = opened("growing")
    for token in range(6):
        session.step([token])
    assert session.replays == session._device.counts["launch"] == 0


def test_cuda_graph_can_be_turned_off(opened):
    session, expected = opened("fixed", cuda_graph=False)
    for token in range(6):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    assert session._device.counts["launch"] == 0


def test_recorded_steps_are_dropped_when_a_larger_batch_moves_the_memory(opened):
    session, expected = opened("fixed")
    for batch in (1, 4, 2, 1):
        session.reset(batch)
        expected.reset(batch)
        for column in tokens_of(batch, 7, batch).T:
            np.testing.assert_array_equal(session.step(column), expected.step(column))
        same_state(session, expected)


def test_session_moves_up_from_one_capacity_to_the_next(opened):
    session, expected = opened("fixed", Sizes(capacities=(4, 16)))
    tokens = tokens_of(1, CAPACITY, 5)
    rows = []
    for position in range(CAPACITY):
        session.step(tokens[:, position])
        shapes = {context.shapes["past.00.pool"][0] for context in session._engines.contexts}
        rows.append(max(shapes))
    assert rows == [4] * 4 + [16] * 12 + [CAPACITY] * 24
    state = session.snapshot().tensors
    for column in tokens.T:
        expected.step(column)
    for name, value in expected.snapshot().tensors.items():  # sums over fewer rows are added in another order
        np.testing.assert_allclose(state[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_travel_between_both_runtimes(kind, opened):
    session, expected = opened(kind)
    tokens = tokens_of(2, 20, 6)
    for running in (session, expected):
        running.reset(2)
        running.prefill(tokens[:, :9])
    taken = session.snapshot()
    session.prefill(tokens[:, 9:12])
    session.restore(taken)
    expected.restore(dataclasses.replace(taken, owner=expected.owner))
    for column in tokens[:, 9:].T:
        np.testing.assert_array_equal(session.step(column), expected.step(column))
    same_state(session, expected)


def test_snapshot_with_another_batch_is_restored_into_other_memory(opened):
    session, _ = opened("linear")
    session.reset(3)
    before = session.prefill(tokens_of(3, 6, 7))[:, -1]
    taken = session.snapshot()
    session.reset(1)
    session.step([1])
    session.restore(taken)
    again = session.snapshot()
    assert again.batch == 3
    np.testing.assert_array_equal(again.logits, before)
    for name, value in taken.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)


def test_engine_whose_context_cannot_tell_is_recorded_after_a_first_step(opened, monkeypatch):
    """So it is with TensorRT, which has no `is_stream_capturable`."""
    monkeypatch.delattr(FakeContext, "is_stream_capturable")
    session, expected = opened("fixed")
    for token in range(5):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    assert session.replays == 3


def test_engine_that_cannot_be_recorded_runs_step_by_step(opened, monkeypatch):
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False)
    session, expected = opened("fixed")
    for token in range(5):
        np.testing.assert_array_equal(session.step([token]), expected.step([token]))
    assert session._device.counts["launch"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_made_for_one_shape_where_it_never_changes(kind, opened):
    session, _ = opened(kind)
    session.prefill(tokens_of(1, 5, 1))
    session.step([1])
    prefill, step = session._engines.contexts
    assert not prefill.one_shape
    assert step.one_shape == (kind != "growing")


@pytest.mark.parametrize("kind", KINDS)
def test_pitch_beyond_what_cuda_copies_at_once(kind, opened, monkeypatch):
    monkeypatch.setattr(device_state, "_MOST_PITCH", 1)
    session, expected = opened(kind, dataclasses.replace(KINDS[kind], prefill_chunk=4))
    tokens = tokens_of(2, 12, 3)
    for running in (session, expected):
        running.reset(2)
    expected.prefill_chunk = 4
    np.testing.assert_array_equal(session.prefill(tokens), expected.prefill(tokens))
    np.testing.assert_array_equal(session.step([1, 2]), expected.step([1, 2]))
    same_state(session, expected)


def test_flavors_are_the_two_of_the_manifest():
    from causalrn.bundle.engine_spec import FLAVORS as NAMES

    assert tuple(FLAVORS) == NAMES
