"""`export --target web` as users call it: what it writes, verifies, refuses and keeps."""

import json
import shutil
import subprocess

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.web.wasm_builder import build_modules
from tests.web_tools import needs_web

LOOSE = ("--max-kl", 5, "--max-argmax-changes", 100)

MUTANTS = {
    "a row is forgotten": ("causalrn.c", "(int)seen : there;", "(int)seen - 1 : there;"),
    "another coefficient of exp2": ("causalrn.c", "0x1.62e428p-1f", "0x1.62fp-1f"),
    "the state does not go on": ("causalrn_wasm.c", "current = 1 - current;", ""),
}


@needs_web
def test_bundle_verifies_runs_and_is_inspected(call, runs, web_bundles):
    code, out, err = call("verify", web_bundles["exact"], "--checkpoint", runs["exact"], "--samples", 20)
    assert code == 0, out + err
    assert "node, all ids" in out
    code, out, _ = call("verify", web_bundles["linear"], "--samples", 20)
    assert code == 0, out
    assert "node, recorded" in out
    assert "5 streams" not in out
    assert "3 streams" in out
    generated = [
        call("run", place, "--prompt", "abc", "--max-new-tokens", 8) for place in (web_bundles["exact"], runs["exact"])
    ]
    assert generated[0][0] == 0, generated[0][2]
    assert generated[0][1] == generated[1][1]
    code, out, _ = call("inspect", web_bundles["exact"])
    assert code == 0
    assert "bundle for web, C as WebAssembly" in out


@needs_web
def test_export_says_what_it_wrote_and_can_be_repeated(call, runs, web_bundles, tmp_path):
    for _ in range(2):
        words = ("export", runs["exact"], "-o", tmp_path / "site", "--target", "web", "--beside", web_bundles["linear"])
        code, out, err = call(*words)
        assert code == 0, err
        assert "C as WebAssembly, growing pool for 40 positions" in out
    site = tmp_path / "site"
    assert list(Bundle.open(site).manifest.folders) == ["beside"]
    assert Bundle.open(site / "beside").sha256 == Bundle.open(web_bundles["linear"]).sha256
    (site / "beside" / "mine.txt").write_text("a user's own")
    code, _, err = call(*words)
    assert code == 2
    assert "holds other files (beside, changed)" in err
    assert (site / "beside" / "mine.txt").exists()


@needs_web
def test_folder_beside_is_ours_only_as_it_was_written(call, runs, bundles, web_bundles, tmp_path):
    """A bundle that a user has put there, or one that was changed, is not replaced, nor taken for whole."""
    own = tmp_path / "onnx"
    shutil.copytree(bundles["exact"], own)
    shutil.copytree(web_bundles["linear"], own / "beside")
    code, _, err = call("export", runs["exact"], "-o", own)
    assert code == 2
    assert "holds other files (beside)" in err
    site = tmp_path / "site"
    shutil.copytree(web_bundles["exact"], site)
    shutil.rmtree(site / "beside")
    assert "beside: no such folder" in call("inspect", site)[2]
    shutil.copytree(web_bundles["exact"] / "beside", site / "beside")
    assert call("inspect", site)[0] == 0
    (site / "beside" / "certificate.json").write_text("{}")
    code, _, err = call("export", runs["exact"], "-o", site)
    assert code == 2
    shutil.rmtree(site / "beside")
    shutil.copytree(web_bundles["exact"], site / "beside")
    assert "another bundle than the manifest says" in call("inspect", site)[2]


@needs_web
def test_bundle_beside_has_none_itself(call, runs, web_bundles, tmp_path):
    words = ("export", runs["exact"], "-o", tmp_path / "x", "--target", "web", "--beside", web_bundles["exact"])
    code, _, err = call(*words)
    assert code == 2
    assert "has a second bundle itself: name one without --beside" in err


@pytest.mark.cases(0)
@needs_web
@pytest.mark.parametrize(
    "options", [("--scheme", "w8", "--pool16"), ("--scheme", "w8a8-dynamic", "--pool8")], ids=" ".join
)
def test_quantized_bundle_is_measured_and_verifies(call, runs, tmp_path, options):
    code, out, err = call("export", runs["exact"], "-o", tmp_path / "site", "--target", "web", *options)
    assert code == 0, out + err
    assert "KL divergence" in out
    sampled = () if "--pool8" in options else ("--level", "logits", "--level", "split")  # everything once
    code, out, _ = call("verify", tmp_path / "site", "--samples", 20, *LOOSE, *sampled)
    assert code == 0, out
    result = subprocess.run(
        ["node", tmp_path / "site" / "verify.mjs", "--json"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    checks = {row["check"]: row for row in json.loads(result.stdout)["rows"]}
    assert 0 < checks["distribution"]["error"] <= checks["distribution"]["allowed"] == 0.01


@pytest.mark.cases(0)
@needs_web
def test_quantized_bundle_that_loses_too_much_is_not_kept(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("causalrn.calibration.report.find_faults", lambda *arguments: ["lost everything"])
    assert call("export", runs["exact"], "-o", tmp_path / "site", "--target", "web", "--scheme", "w8")[0] == 1
    assert not (tmp_path / "site").exists()


@pytest.mark.cases(0)
@needs_web
@pytest.mark.parametrize(("name", "right", "wrong"), MUTANTS.values(), ids=MUTANTS)
def test_faults_in_the_engine_are_caught(call, web_bundles, tmp_path, name, right, wrong):
    """In Python's verify, and in the folder's own script, which golden vectors alone have to tell."""
    folder = tmp_path / "site"
    shutil.copytree(web_bundles["linear" if name != "causalrn.c" else "exact"], folder)
    text = (folder / name).read_text()
    assert text.count(right) == 1
    (folder / name).write_text(text.replace(right, wrong))
    build_modules(folder)
    seal_bundle(folder, Bundle.open(web_bundles["linear" if name != "causalrn.c" else "exact"]).manifest)
    assert call("verify", folder, "--samples", 20)[0] == 1
    assert subprocess.run(["node", folder / "verify.mjs"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "web", "--opset", 21), "--opset belongs to --target onnx, and this is web"),
        (
            ("--target", "web", "--pool", "fixed"),
            "--pool belongs to --target onnx or executorch or litert or coreml, and",
        ),
        (("--target", "web", "--weights", "inline"), "--weights belongs to --target c, and this is web"),
        (("--engine", "ort-web"), "--engine belongs to --target web, and this is onnx"),
        (("--target", "c", "--beside", "x"), "--beside belongs to --target web, and this is c"),
        (("--pool8",), "--pool8 belongs to --target c or web, and this is onnx"),
        (("--target", "web", "--beside", "nowhere"), "nowhere: no such folder"),
        (("--target", "web", "--engine", "ort-web", "--scheme", "w8"), "leave out --engine ort-web"),
        (("--target", "web", "--scheme", "w4"), "WebAssembly has no scheme w4: choose w8 or w8a8-dynamic"),
        (("--target", "web", "--engine", "webgpu"), "'webgpu' is not one of 'c', 'ort-web'"),
    ],
)
def test_options_that_contradict_the_target_are_refused(call, runs, tmp_path, words, message):
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "site", *words)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@needs_web
def test_bundle_beside_has_to_be_one_for_the_web(call, runs, exact_bundle, tmp_path):
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "site", "--target", "web", "--beside", exact_bundle)
    assert code == 2
    assert "is a bundle for onnx, not for the web" in err


def test_missing_tools_are_named_before_the_work(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "site", "--target", "web")
    assert code == 2
    assert "node was not found: install nodejs" in err
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/node" if name == "node" else None)
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "site", "--target", "web")
    assert code == 2
    assert "no clang was found" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.cases(0)
def test_onnxruntime_web_verifies_in_node(call, runs, ort_web_bundle):
    code, out, err = call("verify", ort_web_bundle, "--checkpoint", runs["exact"], "--samples", 10)
    assert code == 0, out + err
    assert "layer" not in out.replace("layer       recurrent", "").replace("layer       parallel", "")
    result = subprocess.run(["node", ort_web_bundle / "verify.mjs"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed: onnxruntime-web, node" in result.stdout
    code, _, err = call("verify", ort_web_bundle, "--level", "layer")
    assert code == 2
    assert "onnxruntime-web does not show what happens between blocks" in err
