"""Commands with OpenVINO as the runtime: what they print, and one line per mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest

from causalrn.cli import doctor_probes
from causalrn.cli.doctor_probe import Probe
from tests.ov_tools import needs_openvino


@needs_openvino
def test_run_gives_the_same_text_and_logits_as_onnxruntime(call, exact_bundle, tmp_path):
    texts = [
        call("run", exact_bundle, "--runtime", name, "--prompt", "abc")[:2] for name in ("onnxruntime", "openvino")
    ]
    assert texts[0] == texts[1]
    assert texts[0][0] == 0
    ids, found = tmp_path / "ids.npy", {}
    np.save(ids, np.arange(24).reshape(2, 12))
    for name in ("onnxruntime", "openvino"):
        path = tmp_path / f"{name}.npy"
        arguments = ("--input-ids", ids, "--logits", path, "--mode", "mixed")
        assert call("run", exact_bundle, "--runtime", name, *arguments)[0] == 0
        found[name] = np.load(path)
    assert np.abs(found["openvino"] - found["onnxruntime"]).max() <= 1e-5 * np.abs(found["onnxruntime"]).max()


@needs_openvino
def test_verify_checks_two_runtimes_in_one_report(call, bundles, runs, tmp_path):
    report = tmp_path / "report.json"
    names = ("--runtime", "onnxruntime", "--runtime", "openvino")
    arguments = ("--checkpoint", runs["linear"], *names, "--level", "logits", "--level", "state", "--json", report)
    code, out, _ = call("verify", bundles["linear"], *arguments)
    assert code == 0
    assert "PASS" in out
    data = json.loads(report.read_text())
    assert data["settings"]["forms"] == ["onnxruntime", "openvino"]
    assert {result["form"].partition(",")[0] for result in data["results"]} == {"onnxruntime", "openvino"}


@needs_openvino
def test_verify_on_a_device_compares_with_golden_vectors(call, bundles):
    code, out, _ = call("verify", bundles["linear"], "--runtime", "openvino", "--level", "logits", "--level", "kernels")
    assert code == 0
    assert "openvino, prefill.onnx" in out


def test_without_a_name_bundles_run_in_onnxruntime(call, bundles):
    code, out, _ = call("verify", bundles["linear"], "--level", "logits")
    assert code == 0
    assert "openvino" not in out


@needs_openvino
def test_bench_names_the_further_runtime(call, bundles, tmp_path):
    report = tmp_path / "bench.json"
    names = ("--runtime", "onnxruntime", "--runtime", "openvino")
    small = ("-d", "4", "-n", "4", "-p", "0", "-r", "3", "--turn-ms", "1", "--json", report)
    code, out, _ = call("bench", bundles["linear"], *names, *small)
    assert code == 0
    assert "linear (openvino)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--precision", "bf16"), "--precision bf16 is openvino's, and"),
        (("--runtime", "openvino", "--provider", "cuda"), "--provider cuda is onnxruntime's, and"),
        (("--runtime", "native"), "native does not run a bundle for onnx"),
    ],
)
def test_options_that_do_not_fit_are_one_line(call, exact_bundle, arguments, words):
    code, _, error = call("run", exact_bundle, "--prompt", "abc", *arguments)
    assert code == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1


@needs_openvino
def test_doctor_runs_a_model_in_it():
    found = doctor_probes.probe_openvino()
    assert (found.name, found.status) == ("OpenVINO, CPU", "works"), found.detail
    assert "float32" in found.detail


def test_doctor_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor_probes, "is_installed", lambda package: package != "openvino")
    remedy = "pip install 'causalrn[openvino]'"
    assert doctor_probes.probe_openvino() == Probe("OpenVINO, CPU", "missing", "openvino not installed", remedy)
