"""Rollouts carry the state, feed tokens back, mark resets; what calibration sees is what a session computes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import own_hash
from causalrn.calibration.observers import Histogram, HistogramObserver, histogram_limits
from causalrn.calibration.rollouts import BATCH, Prompts, RolloutDataReader, roll_out
from causalrn.calibration.table import CalibrationTable, calibrate
from causalrn.calibration.table_entries import Rollout
from causalrn.calibration.watching import opened_for_watching
from causalrn.errors import CalibrationError
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.training.tasks import CopyMixedTask, CopyTask

IDS = np.random.default_rng(0).integers(0, 29, (5, 6))


@pytest.fixture
def bundle(exact_bundle):
    return Bundle.open(exact_bundle)


def tokens_of(session, prompts, seed=0):
    steps = list(roll_out(session, prompts, seed))
    return np.stack([step.tokens for step in steps], axis=1), steps


def test_answers_are_the_models_own(bundle):
    prompts = Prompts.of_task(CopyTask(6), 3, 0, 40)
    with open_bundle(bundle) as session:
        fed, _ = tokens_of(session, prompts)
        chosen = run_in_chunks(session, fed, [1] * fed.shape[1]).logits.argmax(-1)
    assert np.array_equal(fed[:, :8], prompts.tokens[:, :8])  # BOS, letters, SEP
    assert np.array_equal(fed[:, 8:], chosen[:, 7:-1])  # greedy, with the state that was carried


def test_mixed_lengths_are_not_given_their_answers():
    prompts = Prompts.of_task(CopyMixedTask(5), 20, 0, None)
    separators = (prompts.tokens == 1).argmax(1)
    for tokens, given, place in zip(prompts.tokens, prompts.given, separators, strict=True):
        letters = place - 1
        assert given[: place + 1].all()
        assert not given[place + 1 : place + 1 + letters].any()
        assert tokens[place + 1 + letters :].size == 0 or given[place + 2 + letters :].all()


def test_users_tokens_are_prompts_and_go_on_at_random(bundle):
    prompts = Prompts.of_tokens(IDS, 40, "ids.npy")
    with open_bundle(bundle) as session:
        one, other, again = (tokens_of(session, prompts, seed)[0] for seed in (0, 1, 0))
    assert one.shape == (5, 12)
    assert np.array_equal(one[:, :6], IDS)
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:, 6:], other[:, 6:])
    assert Prompts.of_tokens(IDS, 8, "").tokens.shape == (5, 8)


def test_each_batch_is_a_rollout_that_begins_with_a_reset(bundle):
    prompts = Prompts.of_task(CopyTask(3), BATCH + 2, 0, 40)
    with open_bundle(bundle) as session:
        steps = list(roll_out(session, prompts, 0, keep_states=True))
    assert [step.position for step in steps] == 2 * list(range(8))
    assert [len(step.tokens) for step in steps] == 8 * [BATCH] + 8 * [2]
    assert [step.before.position for step in steps] == [step.position for step in steps]
    assert prompts.batches == 2


def test_long_rollouts_are_sampled_at_their_ends_and_between(bundle):
    prompts = Prompts(np.zeros((1, 40), np.int64), np.ones((1, 40), bool), 0.0, "")
    with open_bundle(bundle) as session:
        assert all(step.sampled for step in roll_out(session, prompts, 0))
    from causalrn.calibration.rollouts import _sampled_positions

    drawn = _sampled_positions(np.random.default_rng(0), 256)
    assert {0, 255} <= drawn
    assert len(drawn) >= 60
    assert max(np.diff(sorted(drawn))) <= 10


def test_table_holds_what_the_session_computed(bundle):
    prompts = Prompts.of_tokens(IDS, 6, "ids.npy")  # teacher-forced, so that it can be run again
    table = calibrate(bundle, prompts)
    with opened_for_watching(bundle) as (session, names), session.watching(names) as values:
        session.reset(5)
        for position, column in enumerate(IDS.T):
            session.step(column)
            for name in names:
                assert table.activation_ranges[name].highest[position] == values[name].max()
                assert table.activation_ranges[name].lowest[position] == values[name].min()
            assert table.states["01.pool"].at(position) == np.abs(values["row.01.pool"]).max()
    assert names == ["blocks.0.w12.input", "blocks.0.w3.input", "blocks.1.w12.input", "blocks.1.w3.input", "head.input"]
    assert table.rollouts == (Rollout(5, 6, 30, tuple(range(6))),)
    assert sum(table.activations["head.input"].counts) == 5 * 6 * 32


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_sums_and_maxima_are_ranged_as_a_whole(readout, bundles):
    bundle = Bundle.open(bundles[readout])
    table = calibrate(bundle, Prompts.of_tokens(IDS, 6, ""))
    names = {tensor.name for tensor in bundle.manifest.state.tensors}
    assert set(table.states) == names
    if readout == "linear":
        assert np.all(np.diff(table.states["00.sum"].highest) > 0)


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_reader_serves_onnxruntimes_own_calibrators(readout, bundles, tmp_path):
    bundle = Bundle.open(bundles[readout])
    prompts = Prompts.of_tokens(IDS, 6, "")
    table = calibrate(bundle, prompts)
    with opened_for_watching(bundle) as (session, names):
        path = session._bundle.path / "step.onnx"
        calibrator = create_calibrator(
            path, ["MatMul"], str(tmp_path / "augmented.onnx"), CalibrationMethod.MinMax, use_external_data_format=True
        )
        reader = RolloutDataReader(session, prompts)
        calibrator.collect_data(reader)
        ranges = calibrator.compute_data()
        assert reader.get_next() is None
        reader.rewind()
        assert reader.get_next() is not None
    for name in names:
        low, high = ranges[name].range_value
        assert table.activation_ranges[name].largest == pytest.approx(max(-low, high), rel=1e-6)


def test_limits_follow_their_definitions():
    rng = np.random.default_rng(0)
    values = {
        "both": rng.standard_normal((20, 5000)).astype(np.float32),
        "one": rng.exponential(1, (20, 5000)).astype(np.float32),
    }
    values["both"][3, 3] = -40.0
    observer = HistogramObserver()
    for name, rows in values.items():
        for row in rows:
            observer.observe(name, row)
    for name, rows in values.items():
        histogram = observer.histograms[name]
        assert histogram.counts.sum() == rows.size
        assert len(histogram.counts) == 2048
        assert histogram.limit >= np.abs(rows).max() > histogram.limit / 2
        width = 2 * histogram.limit / 2048
        for percentile in (50.0, 90.0, 99.0, 99.99):
            limit = histogram_limits(observer.histograms, "percentile", percentile)[name]
            within, share = (np.mean(np.abs(rows) <= limit + off * width) for off in (1.5, -1.5)), percentile / 100
            assert next(within) >= share - 1e-9
            assert next(within) <= share + 3 / rows.size
        entropy = histogram_limits(observer.histograms, "entropy")[name]
        assert 2.0 < entropy <= histogram.limit


@pytest.mark.parametrize("order", [1, -1])
def test_histograms_do_not_depend_on_the_order_of_what_they_see(order):
    parts = [np.float32([0.001, -0.002]), np.float32([5.0]), np.float32([-300.0, 0.25])]
    together = Histogram.of(np.concatenate(parts))
    observer = HistogramObserver()
    for part in parts[::order]:
        observer.observe("x", part)
    assert observer.histograms["x"].limit == together.limit
    assert np.array_equal(observer.histograms["x"].counts, together.counts)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_limits_of_values_that_are_all_the_same(method):
    observer = HistogramObserver()
    for _ in range(2):
        observer.observe("zero", np.zeros(10, np.float32))
    observer.observe("one", np.full(10, -1.0, np.float32))
    limits = histogram_limits(observer.histograms, method)
    assert 0 <= limits["zero"] < 1e-5
    assert limits["one"] == pytest.approx(1.0, rel=0.02)


def test_no_method_goes_beyond_what_was_seen_and_minmax_reaches_it(bundle):
    prompts = Prompts(np.random.default_rng(1).integers(0, 29, (2, 40)), np.ones((2, 40), bool), 0.0, "")
    table = calibrate(bundle, prompts)
    for method in ("minmax", "percentile", "entropy"):
        for name, limit in table.limits(method).items():
            largest = table.activation_ranges[name].largest
            assert limit <= largest
            assert method != "minmax" or limit == largest


def test_table_survives_its_file(bundle, tmp_path):
    table = calibrate(bundle, Prompts.of_tokens(IDS, 40, "ids.npy"))
    table.save(tmp_path / "table.json")
    again = CalibrationTable.load(tmp_path / "table.json")
    assert again == table
    assert again.entries() == table.entries()
    for method in ("minmax", "percentile", "entropy"):
        assert again.limits(method) == table.limits(method)
    activation = again.activations["head.input"]
    assert activation.by_position.largest <= activation.limit


@pytest.mark.parametrize("damage", ["missing", "empty", "binary", "list", "format", "version", "changed", "short"])
def test_damaged_tables_are_refused_by_name(damage, bundle, tmp_path):
    path = tmp_path / "table.json"
    calibrate(bundle, Prompts.of_tokens(IDS, 40, "")).save(path)
    data = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "binary"):
        path.write_bytes(b"" if damage == "empty" else b"\xff\x00")
    else:
        changes = {"format": {"format": "x"}, "version": {"version": 9}, "changed": {"seed": 9}, "short": {"seed": 1}}
        data |= changes.get(damage, {})
        if damage == "short":
            del data["activations"]
            data["calibration_sha256"] = own_hash(data, "calibration_sha256")
        path.write_text(json.dumps([] if damage == "list" else data))
    with pytest.raises(CalibrationError, match=r"table\.json: "):
        CalibrationTable.load(path)


def _first(data):
    return data["activations"]["head.input"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(rollouts=[]),
        lambda data: data.update(rollouts=[{}]),
        lambda data: data.update(rollouts="abc"),
        lambda data: data["rollouts"][0].update(sequences="x"),
        lambda data: data.update(activations={}),
        lambda data: data.update(seed="x"),
        lambda data: data.update(source=5),
        lambda data: _first(data).update(counts=[]),
        lambda data: _first(data).update(counts=[1.5] * 8),
        lambda data: _first(data).update(counts=[[1, 2], [3, 4]]),
        lambda data: _first(data).update(counts=[-1] * 8),
        lambda data: _first(data).update(counts=[10**30] * 8),
        lambda data: _first(data).update(counts=[0] * 8),
        lambda data: _first(data).update(limit=1e300),
        lambda data: _first(data).update(limit="nan"),
        lambda data: _first(data).update(limit=0),
        lambda data: _first(data)["by_position"].update(lowest=[]),
        lambda data: _first(data)["by_position"].update(lowest=[], highest=[]),
        lambda data: data["states"]["00.pool"].update(lowest=[1e9] * 12),
    ],
)
def test_tables_that_cannot_be_are_refused_though_their_hash_fits(change, bundle, tmp_path):
    path = tmp_path / "table.json"
    data = calibrate(bundle, Prompts.of_tokens(IDS, 40, "")).entries()
    change(data)
    path.write_text(json.dumps(data | {"calibration_sha256": own_hash(data, "calibration_sha256")}))
    with pytest.raises(CalibrationError, match=r"table\.json: malformed"):
        CalibrationTable.load(path)


def test_table_of_other_weights_is_refused(bundles, bundle, tmp_path):
    table = calibrate(Bundle.open(bundles["linear"]), Prompts.of_tokens(IDS, 40, ""))
    with pytest.raises(CalibrationError, match="other weights"):
        table.check_fits(bundle, tmp_path / "table.json")


def test_calibration_changes_nothing_in_the_bundle(bundle):
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    calibrate(bundle, Prompts.of_tokens(IDS, 40, ""))
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before
    assert onnx.load(bundle.path / "step.onnx") is not None
