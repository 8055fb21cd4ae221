"""The session's addresses, staging and state, against onnxruntime: see fake_gpu.py for what stands in for the GPU."""

import dataclasses
import gc

import numpy as np
import pytest

from causalrn.errors import CapacityError, GpuFailureError, InputError, NonFiniteError, NotExecutedError, StateError
from causalrn.export.trt.profiles import Sizes
from causalrn.manifest import Bundle, seal_bundle
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.trt import device_state
from causalrn.runtimes.trt.trt_session import Gpu, TensorRTSession
from causalrn.trt_flavors import FLAVORS
from tests.runtimes.trt.fake_gpu import FakeContext, FakeDevice, FakeEngines, fake_compile, fake_session

CAPACITY = 40
GROWING = Sizes(growing=((1, 8, 16), (17, 32, CAPACITY)))
KINDS = {"fixed": Sizes(), "growing": GROWING, "linear": Sizes(), "plain": Sizes()}


@pytest.fixture(scope="module")
def sources(bundles, fixed_bundle, tmp_path_factory):
    """ONNX bundles by kind, without the step for one sequence alone: engines are made of the other one."""
    found = {}
    for kind in KINDS:
        path = fixed_bundle if kind == "fixed" else bundles["exact" if kind == "growing" else kind]
        bundle, folder = Bundle.open(path), tmp_path_factory.mktemp("sources")
        graphs = {name: graph for name, graph in bundle.manifest.graphs.items() if name != "step_single"}
        for name in bundle.manifest.files:
            (folder / name).write_bytes((path / name).read_bytes())
        found[kind] = seal_bundle(folder, dataclasses.replace(bundle.manifest, graphs=graphs))
    return found


@pytest.fixture
def opened(sources, tmp_path, monkeypatch):
    """A function that opens (session on the fake GPU, session in onnxruntime) of a kind."""
    sessions: list[TensorRTSession] = []

    def _open(kind, sizes=None, **options):
        compiled = fake_compile(sources[kind], tmp_path / f"engine{len(sessions)}", monkeypatch, sizes or KINDS[kind])
        sessions.append(fake_session(sources[kind], compiled, **options))
        return sessions[-1], OnnxRuntimeSession(sources[kind])

    yield _open
    for session in sessions:
        session.close()


def tokens_of(batch, time, seed):
    return np.random.default_rng(seed).integers(0, 29, (batch, time))


def same_state(one, two):
    first, second = one.snapshot(), two.snapshot()
    assert first.position == second.position
    assert first.tensors.keys() == second.tensors.keys()
    for name, value in first.tensors.items():
        assert value.dtype == second.tensors[name].dtype
        np.testing.assert_array_equal(value, second.tensors[name], err_msg=name)


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


def test_broken_staging_would_be_noticed(opened, monkeypatch):
    """The fake GPU is able to fail: a row copied to the wrong position changes what follows."""
    session, expected = opened("fixed")
    update = session._state.update
    monkeypatch.setattr(session._state, "update", lambda position, outputs: update(position + 1, outputs))
    differs = False
    for token in range(4):
        differs |= not np.array_equal(session.step([token]), expected.step([token]))
    assert differs


def test_flavors_are_the_two_of_the_manifest():
    from causalrn.engine_spec import FLAVORS as NAMES

    assert tuple(FLAVORS) == NAMES
