"""Certificates: what they say, and when they are void."""

import json
import shutil

import onnx
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.json_values import own_hash
from causalrn.compiling.processor import processor_family
from causalrn.runtimes.native import builds
from tests.c_tools import needs_c_compiler


def test_certificate_holds_until_the_bundle_changes(call, exact_bundle, runs, tmp_path):
    bundle = shutil.copytree(exact_bundle, tmp_path / "bundle")
    certificate = tmp_path / "certificate.json"
    code, _, _ = call("verify", bundle, "--checkpoint", runs["exact"], "--samples", 5, "--certificate", certificate)
    assert code == 0
    code, out, _ = call("inspect", bundle, "--certificate", certificate, "--json", tmp_path / "i.json")
    assert code == 0
    assert "certificate holds" in out
    assert "determinism" in out
    assert processor_family() in out
    shown = json.loads((tmp_path / "i.json").read_text())["certificate"]
    assert shown["holds"]
    assert any("is known was not recorded" in note for note in shown["report"]["notes"])  # as of an earlier version
    assert shown["report"]["checkpoint_sha256"] == Bundle.open(bundle).manifest.checkpoint_sha256

    model = onnx.load(bundle / "step.onnx", load_external_data=False)
    model.doc_string = "changed"
    onnx.save(model, bundle / "step.onnx")
    code, out, error = call("inspect", bundle, "--certificate", certificate)
    assert code == 2  # the manifest's hash does not fit either
    assert "VOID: step.onnx is not the file that was verified" in out
    assert "step.onnx" in error
    seal_bundle(bundle, Bundle.open(exact_bundle).manifest)
    code, out, _ = call("inspect", bundle, "--certificate", certificate)
    assert code == 1
    assert "VOID: manifest.json is not" in out
    assert "step.onnx" in out


def test_certificate_beside_the_bundle_is_found_and_replaced(call, exact_bundle, runs, tmp_path):
    bundle = shutil.copytree(exact_bundle, tmp_path / "bundle")
    for _ in range(2):
        assert call("verify", bundle, "--level", "logits", "--certificate", bundle / "certificate.json")[0] == 0
    assert "certificate holds" in call("inspect", bundle)[1]
    data = json.loads((bundle / "certificate.json").read_text())
    del data["report"]["known_by"]  # of an earlier version
    data["certificate_sha256"] = own_hash(data, "certificate_sha256")
    (bundle / "certificate.json").write_text(json.dumps(data))
    assert "certificate holds" in call("inspect", bundle)[1]
    data["report"]["results"][0]["error"] = 0.0
    (bundle / "certificate.json").write_text(json.dumps(data))
    code, _, error = call("inspect", bundle)
    assert code == 2
    assert "changed since it was written" in error


def test_failed_verification_is_not_certified(call, damaged, runs, tmp_path):
    code, out, _ = call("verify", damaged, "--level", "logits", "--certificate", tmp_path / "c.json")
    assert code == 1
    assert "was not written" in out
    assert list(tmp_path.iterdir()) == []


def test_bundle_that_was_not_run_is_not_certified(call, damaged, runs, tmp_path):
    arguments = ("--checkpoint", runs["exact"], "--runtime", "recurrent", "--level", "logits")
    code, out, _ = call("verify", damaged, *arguments, "--certificate", tmp_path / "c.json")
    assert code == 0
    assert "the bundle itself was not run: this says nothing about it" in out
    assert "was not written: the bundle itself was not run" in out
    assert list(tmp_path.iterdir()) == []


def _resealed(change):
    """A certificate with something changed, and its own hash mended."""

    def damage(data):
        change(data)
        data["certificate_sha256"] = own_hash(data, "certificate_sha256")

    return damage


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(version=2), "version 2"),
        (lambda data: data.update(certificate="other"), "not a certificate"),
        (lambda data: data["report"].update(passed=False), "changed since"),
        (_resealed(lambda data: data["report"].update(passed=False)), "report: passed is False"),
        (_resealed(lambda data: data.update(files={})), "malformed"),
        (_resealed(lambda data: data.pop("issued")), "malformed"),
        (_resealed(lambda data: data.update(report=[])), "malformed"),
        (_resealed(lambda data: data["report"].update(results=None)), "report.results: expected array"),
        (_resealed(lambda data: data["report"]["bundle"].update(sha256="0" * 64)), "not the bundle's"),
        (
            _resealed(lambda data: data["report"]["results"][0].update(error="x")),
            "report.results[0].error:",
        ),
        (_resealed(lambda data: data["report"]["results"][0].update(summary=5)), "malformed"),
        (_resealed(lambda data: data["report"].update(environment=None)), "malformed"),
        (_resealed(lambda data: data["report"]["environment"].update(machine=5)), "expected str, got int"),
        (_resealed(lambda data: data["report"].update(notes=[5])), "report.notes[0]: expected str"),
        (_resealed(lambda data: data["report"].pop("settings")), "malformed"),
        (
            _resealed(lambda data: data["report"]["settings"].update(budget={"repeat": "y"})),
            "settings.budget.repeat",
        ),
    ],
)
def test_wrong_certificates_are_refused_in_one_line(call, exact_bundle, tmp_path, change, words):
    path = tmp_path / "c.json"
    assert call("verify", exact_bundle, "--level", "logits", "--certificate", path)[0] == 0
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    code, _, error = call("inspect", exact_bundle, "--certificate", path)
    assert code == 2
    assert words in error
    assert error.count("\n") == 1


def test_inspect_says_what_a_certificate_does_not_cover(call, exact_bundle, runs, tmp_path):
    arguments = ("--level", "logits", "--max-kl", 0.5, "--certificate", tmp_path / "c.json")
    assert call("verify", exact_bundle, "--checkpoint", runs["exact"], *arguments)[0] == 0
    _, out, _ = call("inspect", exact_bundle, "--certificate", tmp_path / "c.json")
    assert "judged by a budget, not by rounding: kl divergence 0.5" in out
    assert "not checked: state, split, layer, calls, drift, task, determinism, kernels, guards" in out


@needs_c_compiler
def test_certificate_says_file_by_file_what_was_executed(call, c_bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "missing_tools", list)
    path = tmp_path / "c.json"
    code, out, _ = call("verify", c_bundles["exact"], "--level", "kernels", "--certificate", path)
    assert code == 0, out
    assert "not executed here: the kernel for ARM: needs aarch64-linux-gnu-gcc and qemu-aarch64" in out
    coverage = json.loads(path.read_text())["report"]["coverage"]
    uses = {file["name"]: file["use"] for file in coverage["files"]}
    assert uses.keys() == {"manifest.json", *Bundle.open(c_bundles["exact"]).manifest.files}
    assert {name for name, use in uses.items() if use == "executed"} == {
        *("causalrn.c", "causalrn.h", "weights.bin", "selftest.c", "example.c", "golden.h")
    }
    assert uses["causalrn_threads.c"] == uses["Makefile"] == "hashed only"
    assert {"portable", "plain C", "selftest.c"} <= set(coverage["kernels"])
    _, shown, _ = call("inspect", c_bundles["exact"], "--certificate", path)
    table = shown[shown.index("executed by") :].splitlines()
    assert any(line.split()[:2] == ["selftest.c", "executed"] for line in table)
    assert all(len(line) <= 80 for line in table if line.startswith(" "))
    for words in ("levels that were not checked: logits", "threads that share work", "batches of more than 65"):
        assert f"not covered: {words}" in shown


def test_without_the_level_the_session_is_what_was_executed(call, exact_bundle, tmp_path):
    path = tmp_path / "c.json"
    assert call("verify", exact_bundle, "--level", "logits", "--certificate", path)[0] == 0
    files = {file["name"]: file["use"] for file in json.loads(path.read_text())["report"]["coverage"]["files"]}
    assert files["step.onnx"] == files["weights.bin"] == "executed"
    assert files["prefill.onnx"] == "hashed only"
    assert files["golden.safetensors"] == files["manifest.json"] == "read"


def test_certificate_of_an_earlier_version_is_readable(call, exact_bundle, tmp_path):
    path = tmp_path / "c.json"
    assert call("verify", exact_bundle, "--level", "logits", "--certificate", path)[0] == 0
    data = json.loads(path.read_text())
    _resealed(lambda data: data["report"].pop("coverage"))(data)
    path.write_text(json.dumps(data))
    code, out, _ = call("inspect", exact_bundle, "--certificate", path)
    assert code == 0
    assert "which files were executed it does not say" in out
