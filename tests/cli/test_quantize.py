"""`quantize` as users call it: what it writes, and what it keeps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import BUDGETS, Budget
from causalrn.runtimes import open_session

LOOSE = ("--max-kl", 5, "--max-accuracy-drop", 100, "--samples", 20)
"""Random weights know nothing of the task, and agree less than trained ones: the gate has its own tests."""


def hashes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_before_and_after_are_printed_and_written(quantize, exact_bundle, tmp_path):
    before = hashes(exact_bundle)
    code, out, _ = quantize("--scheme", "w8", "--json", tmp_path / "report.json", *LOOSE)
    assert code == 0, out
    assert "w8 (nbits)" in out
    for row in ("weights", "pool per token", "teacher-forced", "free-running", "KL divergence", "time per token"):
        assert row in out
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 80
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert report["source"]["sha256"] == Bundle.open(exact_bundle).sha256
    assert report["after"]["weights_bytes"] == (tmp_path / "out" / "weights.bin").stat().st_size
    assert set(report["after"]["sqnr_db"]) == {"blocks.0", "blocks.1", "head"}
    assert report["measured_on"] == "8 sequences of 40 tokens (copy, 19 letters)"
    assert report["ratios"]["weights_bytes"] == report["after"]["weights_bytes"] / report["before"]["weights_bytes"]
    assert f"{report['ratios']['step_us']:.2f}x" in out
    assert hashes(exact_bundle) == before


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "options",
    [
        ("--scheme", "w8"),
        ("--scheme", "w4", "--form", "qdq"),
        ("--scheme", "w8a8-dynamic", "--pool8"),
        ("--scheme", "w8a8", "--method", "percentile"),
        ("--scheme", "fp16"),
        ("--pool8",),
        ("--scheme", "w8", "--pool16"),
    ],
    ids=" ".join,
)
def test_every_scheme_gives_a_bundle_that_verifies_and_runs(options, quantize, call, runs, tmp_path):
    code, out, err = quantize(*options, *LOOSE)
    assert code == 0, out + err
    budget = ("--max-kl", 5, "--max-argmax-changes", 100)
    code, out, _ = call("verify", tmp_path / "out", *budget, "--samples", 20)
    assert code == 0, out
    assert "judged by budgets" in out
    code, out, _ = call(
        "verify", tmp_path / "out", "--checkpoint", runs["exact"], *budget, "--samples", 20, "--max-accuracy-drop", 100
    )
    assert code == 0, out
    code, out, _ = call("run", tmp_path / "out", "--prompt", "abc", "--max-new-tokens", 4)
    assert code == 0
    code, out, _ = call("inspect", tmp_path / "out")
    assert "quantization" in out
    assert "none, float32" not in out


def test_what_loses_too_much_is_not_kept(quantize, tmp_path):
    code, _, _ = quantize("--scheme", "w8", *LOOSE)
    kept = hashes(tmp_path / "out")
    code, out, _ = quantize("--scheme", "w4", "--max-kl", 1e-9, "--json", tmp_path / "report.json")
    assert code == 1
    assert "FAIL KL divergence" in out
    assert "nothing was written" in out
    assert hashes(tmp_path / "out") == kept
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False
    code, _, _ = quantize("--scheme", "w4", "--max-kl", 1e-9, output="new")
    assert code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "report.json"]


def test_a_scheme_is_judged_by_its_own_budget(quantize, tmp_path):
    for scheme in ("w4", "w8"):
        quantize("--scheme", scheme, "--samples", 20, "--json", tmp_path / "report.json", "--max-kl", 5)
        budget = json.loads((tmp_path / "report.json").read_text())["budget"]
        assert budget == {**BUDGETS[scheme].__dict__, "kl_divergence": 5.0}


@pytest.mark.cases(0)
def test_blocks_are_kept_until_the_gate_holds(quantize, tmp_path):
    code, out, _ = quantize("--scheme", "w4", *LOOSE, "--json", tmp_path / "all.json")
    worst = json.loads((tmp_path / "all.json").read_text())["after"]["agreement"]["kl_divergence"]
    limits = ("--max-kl", worst / 3, "--max-accuracy-drop", 100, "--samples", 20)
    code, out, _ = quantize("--scheme", "w4", "--keep-blocks-fp32", "auto", *limits, "--json", tmp_path / "auto.json")
    assert code == 0, out
    assert "one block quantized at a time" in out
    report = json.loads((tmp_path / "auto.json").read_text())
    kept = report["quantization"]["kept"]
    assert kept
    assert kept == sorted(report["sensitivity"][0]["parts"] if len(kept) <= 2 else kept)
    assert report["after"]["agreement"]["kl_divergence"] <= worst / 3
    code, out, _ = quantize("--scheme", "w4", "--keep-blocks-fp32", 1, *LOOSE, "--json", tmp_path / "one.json")
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["quantization"]["kept"] == sorted(one["sensitivity"][0]["parts"])
    assert "kept in float32" in out


def test_blocks_are_kept_beside_narrow_pools(quantize, tmp_path):
    options = ("--scheme", "w4", "--pool8", "--sensitivity", "block", "--json", tmp_path / "report.json")
    code, out, err = quantize(*options, "--keep-blocks-fp32", 1, *LOOSE)
    assert code == 0, out + err
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.quantization is not None
    assert manifest.quantization.pool8
    assert manifest.quantization.kept
    assert "pools" in {entry["unit"] for entry in json.loads((tmp_path / "report.json").read_text())["sensitivity"]}


def test_a_gate_that_needs_all_blocks_in_float32_is_not_met(quantize, tmp_path):
    code, out, _ = quantize("--scheme", "w4", "--keep-blocks-fp32", "auto", "--max-kl", 0, *LOOSE[2:])
    assert code == 1
    assert "try another scheme" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cases(0)
def test_calibration_can_be_kept_used_again_and_inspected(quantize, call, tmp_path):
    table = tmp_path / "table.json"
    code, _, _ = quantize("--scheme", "w8a8", "--save-calibration", table, *LOOSE, "--sequences", 16)
    assert code == 0
    first = hashes(tmp_path / "out")
    code, _, _ = quantize("--scheme", "w8a8", "--calibration", table, *LOOSE)
    assert code == 0
    assert hashes(tmp_path / "out") == first
    code, out, _ = call("inspect", table, "--json", tmp_path / "inspected.json")
    assert code == 0
    assert "blocks.0.w12.input" in out
    assert "00.pool" in out
    data = json.loads((tmp_path / "inspected.json").read_text())
    assert data["limits"]["minmax"].keys() == data["calibration"]["activations"].keys()
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.quantization is not None
    assert manifest.quantization.calibration["sequences"] == 16


def test_users_tokens_are_calibrated_on(quantize, tmp_path):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 29, (9, 12)))
    code, out, _ = quantize("--scheme", "w8a8", "--load-inputs", tmp_path / "ids.npy", *LOOSE)
    assert code == 0, out
    assert "fewer than" not in out
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.quantization is not None
    assert "ids.npy" in manifest.quantization.calibration["source"]


@pytest.mark.parametrize("how", ["one sequence", "one line"])
def test_too_little_calibration_is_warned_about(how, quantize, tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((1, 12), np.int64))
    data = ("--load-inputs", tmp_path / "ids.npy") if how == "one line" else ("--sequences", 1)
    code, out, _ = quantize("--scheme", "w8a8", *data, *LOOSE)
    assert code == 0
    assert "fewer than 8 sequences" in out


@pytest.mark.cases(1)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_picture_is_drawn(suffix, quantize, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'causalrn[report]'")
    plot = tmp_path / f"plot.{suffix}"
    options = ("--sensitivity", "tensor", "--plot", plot) if suffix == "png" else ("--plot", plot)
    code, out, _ = quantize("--scheme", "w8a8", *options, *LOOSE)
    assert code == 0, out
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert plot.read_bytes().startswith(start)


def test_checkpoint_makes_the_oracle_the_judge(quantize, runs, tmp_path):
    code, out, _ = quantize("--scheme", "w8", "--checkpoint", runs["exact"], *LOOSE, "--json", tmp_path / "r.json")
    assert code == 0, out
    assert "float64 oracle" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert 0 < report["before"]["agreement"]["kl_divergence"] < 1e-9
    code, _, err = quantize("--scheme", "w8", "--checkpoint", runs["linear"])
    assert code == 2
    assert "other weights" in err


def test_state_files_belong_to_their_bundle(quantize, call, exact_bundle, tmp_path):
    quantize("--pool16", *LOOSE)
    state = tmp_path / "state"
    code, _, _ = call("run", tmp_path / "out", "--prompt", "abc", "--max-new-tokens", 3, "--state-out", state)
    assert code == 0
    code, _, _ = call("run", tmp_path / "out", "--max-new-tokens", 3, "--state-in", state)
    assert code == 0
    code, _, err = call("run", exact_bundle, "--max-new-tokens", 3, "--state-in", state)
    assert code == 2
    assert "another bundle" in err


def test_damaged_quantized_bundle_fails_its_budget(quantize, call, runs, tmp_path):
    """A scale that is twice what it should be: verify notices, by the budget of the scheme."""
    from causalrn.bundle.graph_files import load_graphs, save_graphs
    from causalrn.calibration.graph_edits import array_of, set_array

    quantize("--scheme", "w8", "--form", "qdq", *LOOSE)
    bundle = Bundle.open(tmp_path / "out")
    graphs = load_graphs(bundle)
    for model in graphs.values():
        scale = model.graph.initializers["blocks.1.w3.scale"]
        set_array(scale, 2 * array_of(scale))
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "out", damaged)
    save_graphs(graphs, damaged, checked=True)
    seal_bundle(damaged, bundle.manifest)
    code, out, _ = call("verify", damaged, "--checkpoint", runs["exact"], "--samples", 20, "--level", "logits")
    assert code == 1
    assert "FAIL" in out


@pytest.mark.cases(1)
@pytest.mark.parametrize("scheme", ["w8", "w8a8"])
def test_export_quantizes_in_one_go(scheme, call, runs, tmp_path, monkeypatch):
    loose = {name: Budget(5.0, 1.0, 1.0) for name in BUDGETS}
    monkeypatch.setattr("causalrn.workflows.quantize_options.BUDGETS", loose)
    code, out, err = call("export", runs["exact"], "-o", tmp_path / "out", "--scheme", scheme)
    assert code == 0, err
    assert f"float64 oracle of {runs['exact']}" in out
    quantization = Bundle.open(tmp_path / "out").manifest.quantization
    assert quantization is not None
    assert quantization.scheme == scheme
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_keeps_nothing_that_loses_too_much(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("causalrn.workflows.quantize_options.BUDGETS", dict.fromkeys(BUDGETS, Budget(1e-9)))
    code, out, _ = call("export", runs["exact"], "-o", tmp_path / "out", "--scheme", "w8")
    assert code == 1
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_python_sessions_open_quantized_bundles(quantize, tmp_path):
    quantize("--scheme", "w8", "--pool8", *LOOSE)
    with open_session(tmp_path / "out") as session:
        session.prefill(np.array([[0, 5, 6, 1]]))
        assert session.snapshot().tensors["00.pool"].dtype == np.int8
        assert session.snapshot().tensors["00.scale"].shape == (4, 1)
