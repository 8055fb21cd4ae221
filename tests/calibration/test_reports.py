"""Before and after: figures are right, damage is named, and the gate lets nothing through."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.bundle.json_values import to_json
from causalrn.bundle.quantization import round_to_int8
from causalrn.bundle.tolerances import Budget
from causalrn.calibration.evaluation import (
    Baseline,
    Measured,
    measure_baseline,
    measure_quantized,
    sqnr_db,
    time_steps,
)
from causalrn.calibration.graph_edits import array_of, set_array
from causalrn.calibration.report import find_faults
from causalrn.calibration.schemes import POOLS, Scheme, write_quantized
from causalrn.calibration.sensitivity import rank_sensitivity, units_of
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.comparison import Agreement, compare_distributions
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.training.tasks import CopyTask

TOKENS = np.random.default_rng(0).integers(0, 29, (3, 24))


@pytest.fixture(scope="module")
def source(bundles) -> Bundle:
    return Bundle.open(bundles["exact"])


@pytest.fixture(scope="module")
def baseline(source) -> Baseline:
    task = CopyTask(8)
    with open_bundle(source) as session:
        return measure_baseline(source, session, TOKENS, task, task.draw("quantize", 20), None)


def measured(bundle: Bundle, baseline: Baseline) -> Measured:
    with open_bundle(bundle) as session:
        return measure_quantized(bundle, session, baseline)


def test_sqnr_is_in_decibel():
    signal = np.array([3.0, -4.0])
    assert sqnr_db(signal, signal * 1.1) == pytest.approx(20.0)
    assert sqnr_db(signal, signal) == float("inf")
    assert np.isnan(sqnr_db(signal, np.array([np.nan, 0.0])))


def test_sizes_are_those_of_the_files(source, baseline, tmp_path):
    assert baseline.measured.weights_bytes == (source.path / WEIGHTS_FILE).stat().st_size
    graphs = sum(path.stat().st_size for path in source.path.glob("*.onnx"))
    assert baseline.measured.bundle_bytes == baseline.measured.weights_bytes + graphs
    assert baseline.measured.state_bytes_per_token == 2 * 32 * 4
    bundle = write_quantized(source, tmp_path, Scheme("float32", pool="int8"))
    assert measured(bundle, baseline).state_bytes_per_token == 2 * (32 + 4)


def test_float32_bundle_agrees_with_itself(source, baseline):
    agreement = baseline.measured.agreement
    positions = baseline.tokens.size
    assert agreement == Agreement(0.0, 1.0, 0.0, agreement.ambiguous, agreement.scale, agreement.offset, positions)
    assert (agreement.scale, agreement.offset) == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12))
    same = measured(source, baseline)
    assert set(same.sqnr_db.values()) == {float("inf")}
    assert same.entries()["sqnr_db"]["head"] is None
    assert find_faults(baseline.measured, same, Budget(0, 0, 0)) == []


def test_damaged_block_is_the_worst_and_fails(source, baseline, tmp_path):
    bundle = write_quantized(source, folder(tmp_path, "good"), Scheme("w8", "qdq"))
    good = measured(bundle, baseline)
    graphs = load_graphs(bundle)
    for model in graphs.values():
        scale = model.graph.initializers["blocks.1.w3.scale"]
        set_array(scale, 2 * array_of(scale))
    path = folder(tmp_path, "damaged")
    save_graphs(graphs, path, checked=True)
    bad = measured(seal_bundle(path, dataclasses.replace(bundle.manifest)), baseline)
    assert bad.worst_unit == "blocks.1"
    assert bad.sqnr_db["blocks.0"] == pytest.approx(good.sqnr_db["blocks.0"])
    assert bad.sqnr_db["blocks.1"] < 1 < 20 < good.sqnr_db["blocks.1"]
    assert bad.agreement.kl_divergence > 10 * good.agreement.kl_divergence
    budget = Budget(2 * good.agreement.kl_divergence, 0.5, 1.0)
    assert find_faults(baseline.measured, good, budget) == []
    assert "KL divergence" in find_faults(baseline.measured, bad, budget)[0]


def figures(right=1000, kl=0.0, changes=0.0, tokens_right=9000, scale=1.0, offset=0.0) -> Measured:
    accuracy = TaskAccuracy("strings", 1000, right, 9000, tokens_right)
    return Measured(1, 1, 1, accuracy, accuracy, Agreement(kl, 1.0, changes, 0.0, scale, offset), {})


@pytest.mark.parametrize(
    ("after", "faults"),
    [
        (figures(995), 0),
        (figures(994), 2),  # teacher-forced and free-running
        (figures(1000), 0),
        (figures(kl=0.01), 0),
        (figures(kl=0.0101), 1),
        (figures(kl=float("nan")), 1),
        (figures(changes=0.03), 1),
        (figures(changes=float("nan")), 1),
        (figures(scale=1.0099, offset=-0.0049), 0),
        (figures(scale=1.031), 1),
        (figures(scale=0.97), 1),
        (figures(scale=float("nan"), offset=float("nan")), 2),
        (figures(scale=None), 1),  # not measured
        (figures(offset=-0.02), 1),
        (figures(900, kl=1.0, changes=1.0), 4),
    ],
)
def test_gate_counts_what_was_lost(after, faults):
    assert len(find_faults(figures(), after, Budget(0.01, 0.02, 0.005))) == faults


def test_time_is_measured_in_turns(source):
    with open_bundle(source) as one, open_bundle(source) as two:
        times = time_steps(one, two, TOKENS)
        assert one.position == two.position == 0
    assert times.before_us > 0
    assert times.after_us > 0
    assert 0 < times.paired.low <= times.ratio <= times.paired.high
    assert times.is_noise == (times.paired.low <= 1 <= times.paired.high)


def test_units_are_blocks_or_weights(source):
    blocks = units_of(source, Scheme("w8", "nbits", pool="int8"), "block")
    assert list(blocks) == ["blocks.0", "blocks.1", "head", POOLS]
    assert blocks["blocks.1"] == ("blocks.1.w12", "blocks.1.w3")
    assert list(units_of(source, Scheme("fp16"), "block")) == ["wte", "wpe", *blocks]
    tensors = units_of(source, Scheme("w4", "nbits", keep=frozenset({"head"})), "tensor")
    assert list(tensors) == ["blocks.0.w12", "blocks.0.w3", "blocks.1.w12", "blocks.1.w3"]
    assert list(units_of(source, Scheme("float32", pool="int8"), "tensor")) == [POOLS]


@pytest.mark.parametrize("scheme", [Scheme("w8", "nbits", pool="int8"), Scheme("fp16"), Scheme("fp16", pool="int8")])
def test_pools_and_tables_are_ranked_beside_weights(scheme, source, baseline):
    ranked = rank_sensitivity(source, scheme, baseline, "tensor")
    tables = {"wte", "wpe"} if scheme.name == "fp16" else set()
    assert {entry.unit for entry in ranked} == {
        *tables, POOLS, "head", *(f"blocks.{block}.{weight}" for block in (0, 1) for weight in ("w12", "w3"))
    }  # fmt: skip
    assert all(0 < entry.kl_divergence < 0.1 for entry in ranked)


def test_what_float16_cannot_hold_is_ranked_first(source, baseline, tmp_path):
    graphs = load_graphs(source)
    for model in graphs.values():
        weight = model.graph.initializers["blocks.1.w3"]
        array = array_of(weight).copy()
        array[3, 3] = 1e6
        set_array(weight, array)
    path = folder(tmp_path, "large")
    save_graphs(graphs, path, checked=True)
    bundle = seal_bundle(path, source.manifest)
    ranked = rank_sensitivity(bundle, Scheme("fp16"), baseline, "block")
    assert ranked[0].unit == "blocks.1"
    assert to_json(ranked[0])["kl_divergence"] is None


def test_ranking_is_that_of_weights_that_were_rounded_by_hand(source, baseline, tmp_path):
    ranked = rank_sensitivity(source, Scheme("w8", "qdq"), baseline, "tensor")
    by_hand = {}
    for entry in ranked:
        graphs = load_graphs(source)
        for model in graphs.values():
            weight = model.graph.initializers[entry.unit]
            values, scale = round_to_int8(array_of(weight), axis=1)
            set_array(weight, values * scale[:, None])
        path = folder(tmp_path, entry.unit)
        save_graphs(graphs, path, checked=True)
        with open_bundle(seal_bundle(path, source.manifest)) as session:
            logits = run_in_chunks(session, TOKENS, [1] * 24).logits
        by_hand[entry.unit] = compare_distributions(logits, baseline.own_logits).kl_divergence
    assert ranked[0].unit == max(by_hand, key=lambda unit: by_hand[unit])
    assert [entry.kl_divergence for entry in ranked] == sorted((e.kl_divergence for e in ranked), reverse=True)
    for entry in ranked:
        # onnxruntime rounds activations, too
        assert by_hand[entry.unit] / 2 < entry.kl_divergence < 5 * by_hand[entry.unit]


def folder(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    return path
