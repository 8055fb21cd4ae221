"""One interface, four runtimes: what holds for one session holds for all."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import (
    CapacityError,
    InputError,
    NonFiniteError,
    StateError,
)
from causalrn.export.onnx_exporter import export_onnx
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import Session, open_session
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.workflows.export_targets import export_bundle
from tests.builders import random_model, random_tokens, relative_error
from tests.c_tools import HAS_C_COMPILER

CAPACITY = 40
KINDS = [
    (runtime, readout)
    for readout in ("exact", "linear", "plain")
    for runtime in ("parallel", "recurrent", "onnxruntime", *(["native"] if HAS_C_COMPILER else []))
]


@pytest.fixture(scope="module")
def sessions(runs, bundles, request):
    """One session per runtime and readout; tests reset them."""
    folders = {"parallel": runs, "recurrent": runs, "onnxruntime": bundles}
    if HAS_C_COMPILER:
        folders["native"] = request.getfixturevalue("c_bundles")
    opened = {(runtime, readout): open_session(folders[runtime][readout], runtime) for runtime, readout in KINDS}
    yield opened
    for session in opened.values():
        session.close()


@pytest.fixture(params=KINDS, ids="-".join)
def session(request, sessions) -> Session:
    chosen: Session = sessions[request.param]
    chosen.reset(1)
    return chosen


@pytest.fixture(scope="module")
def oracles(runs):
    return {readout: load_checkpoint(run).model.oracle() for readout, run in runs.items()}


def _tokens(batch, time, seed=0):
    return np.random.default_rng(seed).integers(0, 29, (batch, time))


def _drive(session, tokens, splits):
    parts, start = [], 0
    for length in splits:
        chunk = tokens[:, start : start + length]
        parts.append(session.step(chunk[:, 0])[:, None] if length == 1 else session.prefill(chunk))
        start += length
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, CAPACITY - 1)), batch=st.integers(1, 3), seed=st.integers(0, 5))
def test_any_split_is_within_tolerance_of_the_oracle(sessions, oracles, kind, cuts, batch, seed):
    tokens = _tokens(batch, CAPACITY, seed)
    session = sessions[kind]
    session.reset(batch)
    logits = _drive(session, tokens, np.diff([0, *sorted(cuts), CAPACITY]).tolist())
    expected = oracles[kind[1]](torch.from_numpy(tokens)).numpy()
    assert relative_error(logits, expected) <= TOLERANCES["float32", kind[0]].relative
    assert (session.position, session.batch) == (CAPACITY, batch)


def test_resumed_session_equals_uninterrupted_run_bit_for_bit(session):
    tokens = _tokens(2, 24)
    session.reset(2)
    session.prefill(tokens[:, :9])
    snapshot = session.snapshot()
    whole = _drive(session, tokens[:, 9:], [1] * 10 + [5])
    session.reset(1)
    session.prefill(_tokens(1, 30, seed=8))
    session.restore(snapshot)
    assert (session.position, session.batch) == (9, 2)
    assert np.array_equal(_drive(session, tokens[:, 9:], [1] * 10 + [5]), whole)


def test_snapshot_does_not_change_with_later_steps(session):
    session.prefill(_tokens(1, 5))
    snapshot = session.snapshot()
    before = {name: tensor.copy() for name, tensor in snapshot.tensors.items()}
    session.prefill(_tokens(1, 5, seed=1))
    assert all(np.array_equal(tensor, before[name]) for name, tensor in snapshot.tensors.items())


def test_fresh_session_repeats_itself_bit_for_bit(session):
    tokens = _tokens(1, 20)
    first = _drive(session, tokens, [7] + [1] * 13)
    session.reset()
    assert np.array_equal(_drive(session, tokens, [7] + [1] * 13), first)


def test_two_sessions_do_not_share_state(bundles):
    one, two = (open_session(bundles["linear"]) for _ in range(2))
    tokens = _tokens(1, 10)
    alone = _drive(one, tokens, [1] * 10)
    one.reset()
    mixed = []
    for index in range(10):
        mixed.append(one.step(tokens[:, index]))
        two.step((tokens[:, index] + 1) % 29)
    assert np.array_equal(np.stack(mixed, 1), alone)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([29], "token id 29 is outside the vocabulary of 29"),
        ([-1], "token id -1 is outside"),
        ([1.0], "dtype float64"),
        ([1, 2], r"shape \[2, 1\]"),
        ([[1]], r"shape"),
        ([[1, 2], [3]], "different lengths"),
    ],
)
def test_bad_step_leaves_the_state_as_it_was(session, tokens, message):
    good = _tokens(1, 12)
    expected = _drive(session, good, [6, 1, 1, 1, 1, 1, 1])
    session.reset()
    session.prefill(good[:, :6])
    with pytest.raises(InputError, match=message):
        session.step(tokens)
    assert session.position == 6
    assert np.array_equal(_drive(session, good[:, 6:], [1] * 6), expected[:, 6:])


def test_prefill_beyond_the_capacity_takes_nothing(session):
    session.prefill(_tokens(1, 30))
    before = session.snapshot()
    with pytest.raises(CapacityError, match="11 more positions after 30 exceed the capacity of 40"):
        session.prefill(_tokens(1, 11))
    after = session.snapshot()
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    session.prefill(_tokens(1, 10))
    with pytest.raises(CapacityError):
        session.step([1])


@pytest.mark.parametrize("session", [kind for kind in KINDS if kind[0] != "parallel"], indirect=True, ids="-".join)
def test_prefill_that_fails_in_a_later_chunk_takes_nothing(session, monkeypatch):
    for token in _tokens(1, 3)[0]:
        session.step([token])  # a state that lies in buffers bound for steps, where there are such
    before, runs = session.snapshot(), iter([1, 2])
    run = session._run

    def failing(tokens, position, state):
        logits, outputs = run(tokens, position, state)
        if next(runs) == 2:
            raise MemoryError
        return logits, outputs

    with monkeypatch.context() as patch:
        patch.setattr(session, "_run", failing)
        patch.setattr(session, "prefill_chunk", 8)
        with pytest.raises(MemoryError):
            session.prefill(_tokens(1, 9))  # the second chunk is a single token
    after = session.snapshot()
    assert after.position == 3
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    expected = _drive(session, _tokens(1, 16), [16])
    session.restore(before)
    assert np.array_equal(_drive(session, _tokens(1, 16), [16]), expected)


def test_changing_what_was_returned_changes_nothing(session):
    tokens = _tokens(1, 8)
    expected = _drive(session, tokens, [3, 1, 1, 1, 1, 1])
    session.reset()
    for logits in (session.prefill(tokens[:, :3]), session.step(tokens[:, 3]), session.last_logits):
        logits[...] = -1
    assert np.array_equal(_drive(session, tokens[:, 4:], [1, 1, 1, 1]), expected[:, 4:])
    assert np.array_equal(session.snapshot().logits, expected[:, -1])


def test_tokens_in_any_memory_order_are_taken(session):
    tokens = _tokens(2, 6)
    session.reset(2)
    expected = session.prefill(tokens)
    session.reset(2)
    assert np.array_equal(session.prefill(np.asfortranarray(tokens[:, ::-1])[:, ::-1].astype(np.int16)), expected)


@pytest.mark.cases(1)
@pytest.mark.parametrize("readout", ["exact", "plain"])
def test_overflow_without_post_norm_is_an_error_and_not_zeros(tmp_path, readout):
    """exp(a + b) without a norm after it may reach 1e25: its mean square overflows, and x / inf would be zero."""
    model = random_model(readout=readout, post_norm=False, hidden=3072, embedding=8, blocks=1)
    with torch.no_grad():
        model.blocks[0].fc_1.bias[3] = 60.0 if readout == "plain" else 1e6
        model.blocks[0].fc_3.weight.mul_(1e3)
    bundle = tmp_path / "bundle"
    card = ModelCard(model.config)
    save_checkpoint(tmp_path / "run", model, card, {})
    checkpoint = load_checkpoint(tmp_path / "run")
    bundle.mkdir()
    sealed = seal_bundle(bundle, export_onnx(checkpoint, bundle))
    for session in (RecurrentSession(RecurrentCell.from_model(model), card), OnnxRuntimeSession(sealed)):
        with pytest.raises(NonFiniteError):
            session.step([1])


def test_nan_is_an_error_and_not_an_answer():
    model = random_model()
    cell = RecurrentCell.from_model(model)
    cell.head[3, 3] = torch.nan
    session = RecurrentSession(cell, ModelCard(model.config))
    with pytest.raises(NonFiniteError):
        session.step([1])
    assert session.position == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: Snapshot(s.position, s.batch, s.tensors, s.logits, "other"), "another bundle"),
        (lambda s: Snapshot(99, s.batch, s.tensors, s.logits, s.owner), "holds 99 positions"),
        (lambda s: Snapshot(s.position, s.batch, {}, s.logits, s.owner), "state"),
        (lambda s: Snapshot(s.position, 2, s.tensors, s.logits, s.owner), "state|history"),
        (
            lambda s: Snapshot(
                s.position, s.batch, {n: t.astype(np.float16) for n, t in s.tensors.items()}, s.logits, s.owner
            ),
            "float16|history",
        ),
        (lambda s: Snapshot(s.position, s.batch, s.tensors, s.logits[:, :3], s.owner), "logits"),
        (lambda s: Snapshot(s.position, s.batch, s.tensors, s.logits * np.nan, s.owner), "logits"),
    ],
)
def test_foreign_snapshot_is_refused_and_changes_nothing(session, spoil, message):
    tokens = _tokens(1, 8)
    session.prefill(tokens[:, :7])
    snapshot = session.snapshot()
    expected = session.step(tokens[:, 7])
    session.restore(snapshot)
    with pytest.raises(StateError, match=message):
        session.restore(spoil(snapshot))
    assert np.array_equal(session.step(tokens[:, 7]), expected)


@pytest.mark.cases(0)
@pytest.mark.parametrize("pool", ["fixed", "concat"])
@pytest.mark.parametrize("opset", [21, 23])
def test_other_pools_and_opsets_give_the_same(runs, oracles, tmp_path, pool, opset):
    export_bundle(runs["exact"], tmp_path / "b", pool=pool, capacity=30, opset=opset)
    tokens = _tokens(2, 30)
    expected = oracles["exact"](torch.from_numpy(tokens)).numpy()
    with open_session(tmp_path / "b") as session:
        session.reset(2)
        logits = _drive(session, tokens, [1, 1, 12, 1, 15])
        assert relative_error(logits, expected) <= TOLERANCES["float32", "onnxruntime"].relative
        with pytest.raises(CapacityError):
            session.step([1, 1])
        session.reset(2)
        assert np.array_equal(_drive(session, tokens, [1, 1, 12, 1, 15]), logits)


def test_recurrent_pool_without_capacity_grows(runs):
    model = random_model(positions="none", capacity=None)
    tokens = random_tokens(model.config, 1, 600).numpy()
    session = RecurrentSession(RecurrentCell.from_model(model), ModelCard(model.config))
    logits = _drive(session, tokens, [300] + [1] * 10 + [290])
    expected = model.oracle()(torch.from_numpy(tokens)).numpy()
    assert relative_error(logits, expected) <= TOLERANCES["float32", "recurrent"].relative


def test_float64_session_has_a_float64_state(runs):
    checkpoint = load_checkpoint(runs["exact"])
    session = RecurrentSession(RecurrentCell.from_model(checkpoint.model, dtype=torch.float64), checkpoint.card)
    assert session.step([1]).dtype == np.float64
    assert session.snapshot().tensors["00.pool"].dtype == np.float64


@pytest.mark.parametrize(
    ("folder", "runtime", "message"),
    [
        ("bundle", "parallel", "`runtime` parallel does not run a bundle for onnx"),
        ("run", "onnxruntime", "`runtime` onnxruntime does not run a checkpoint folder"),
        ("run", "abacus", "runtime 'abacus' is unknown: choose one of parallel, recurrent, onnxruntime"),
    ],
)
def test_wrong_runtime_is_named(runs, exact_bundle, folder, runtime, message):
    with pytest.raises(InputError, match=message):
        open_session(runs["exact"] if folder == "run" else exact_bundle, runtime)


def test_provider_for_a_run_is_refused(runs):
    with pytest.raises(InputError, match="`provider` cuda is onnxruntime's"):
        open_session(runs["exact"], provider="cuda")


def test_threads_are_passed_on(exact_bundle):
    with open_session(exact_bundle, threads=2) as session:
        assert isinstance(session, OnnxRuntimeSession)
        assert session._graphs["step_single", ()].get_session_options().intra_op_num_threads == 2
