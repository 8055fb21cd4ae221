"""`verify` as users call it: what it compares, writes, certifies and refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import jsonschema
import numpy as np
import onnx
import pytest
import safetensors.torch

from causalrn.manifest import Bundle, seal_bundle
from causalrn.run_folder import RunFolder
from causalrn.runtimes.parity.verification import Verification
from tests.builders import ROOT

SCHEMA = json.loads((ROOT / "docs" / "verify-report.schema.json").read_text())


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_verify_without_checkpoint_uses_golden_vectors(call, bundles, readout):
    code, out, _ = call("verify", bundles[readout], "--samples", 10)
    assert code == 0
    assert "golden vectors" in out
    assert "resumed" in out


def test_verify_fails_with_exit_1_on_other_weights(call, bundles, runs, tmp_path):
    """A checkpoint that was trained on after the export: same configuration, other weights."""
    shutil.copytree(runs["exact"], tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["blocks.1.fc_2.weight"] += 1e-3
    safetensors.torch.save_file(weights, path)
    RunFolder.open(tmp_path / "run").write_config()
    code, out, _ = call("verify", bundles["exact"], "--checkpoint", tmp_path / "run", "--samples", 5)
    assert code == 1
    assert "other weights" in out
    assert out.rstrip().endswith("FAIL")


@pytest.mark.parametrize("damage", ["Neg", "Log"])  # other numbers, or none at all
@pytest.mark.parametrize("graph", ["step", "step_single", "prefill"])
@pytest.mark.parametrize("against", ["checkpoint", "golden"])
def test_verify_notices_damage_in_every_graph(call, exact_bundle, runs, tmp_path, graph, against, damage):
    """The logits of one graph spoiled, and the bundle sealed again: hashes fit, answers do not."""
    bundle = shutil.copytree(exact_bundle, tmp_path / "bundle")
    model = onnx.load(bundle / f"{graph}.onnx", load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node(damage, ["right"], ["logits"]))
    onnx.save(model, bundle / f"{graph}.onnx")
    seal_bundle(bundle, Bundle.open(exact_bundle).manifest)
    arguments = ("--checkpoint", runs["exact"]) if against == "checkpoint" else ()
    code, out, _ = call("verify", bundle, "--samples", 5, *arguments)
    assert code == 1
    assert "head, logits" in out
    assert out.rstrip().endswith("FAIL")


@pytest.fixture(scope="module")
def damaged(exact_bundle, tmp_path_factory):
    """A bundle whose block 1 has another W3 than was trained."""
    folder = shutil.copytree(exact_bundle, tmp_path_factory.mktemp("damaged") / "bundle")
    for graph in Bundle.open(exact_bundle).manifest.graphs.values():
        model = onnx.load(folder / graph.file)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.1.w3")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[3, 4] += 0.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(model, folder / graph.file)
    seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    return folder


def test_chosen_runtimes_and_levels_alone_are_shown(call, bundles, runs, tmp_path):
    arguments = ("--runtime", "recurrent", "--level", "split", "--level", "state", "--steps", 10)
    code, _, _ = call(
        "verify", bundles["linear"], "--checkpoint", runs["linear"], *arguments, "--json", tmp_path / "r.json"
    )
    assert code == 0
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    assert [(result["level"], result["form"]) for result in results] == [("state", "recurrent"), ("split", "recurrent")]


def test_failure_names_level_block_tensor_and_side(call, damaged, runs):
    code, out, _ = call("verify", damaged, "--checkpoint", runs["exact"], "--samples", 5, "--fail-fast")
    assert code == 1
    assert "onnxruntime fails at logits; cause: graph" in out
    assert "step 0, block 1, stream.02" in " ".join(out.split())
    assert "not checked, because of --fail-fast: state, split, layer, drift, task, determinism" in out


def test_time_budget_names_what_was_not_reached(call, exact_bundle, runs, monkeypatch):
    monkeypatch.setattr(Verification, "_left", lambda self: 1.0 - len(self.results))
    code, out, _ = call("verify", exact_bundle, "--checkpoint", runs["exact"], "--samples", 5)
    assert code == 1  # what was asked for and not done is no pass
    assert "not checked within 300 s: state, split, layer, drift, task, determinism" in out


@pytest.mark.parametrize("mode", ["checkpoint", "golden", "damaged", "budget"])
def test_json_follows_its_schema(call, exact_bundle, damaged, runs, tmp_path, mode):
    place = tmp_path / "r.json"
    bundle = damaged if mode in ("damaged", "budget") else exact_bundle
    arguments = [] if mode == "golden" else ["--checkpoint", runs["exact"]]
    arguments += ["--max-kl", 1] if mode == "budget" else []
    code, _, _ = call("verify", bundle, *arguments, "--samples", 20, "--json", place)
    assert code == (1 if mode == "damaged" else 0)
    report = json.loads(place.read_text())
    jsonschema.validate(report, SCHEMA)
    assert {result["level"] for result in report["results"]} == set(SCHEMA["$defs"]["level"]["enum"])
    assert bool(report["attributions"]) == (mode == "damaged")


def test_schema_refuses_what_it_does_not_know(call, exact_bundle, tmp_path):
    call("verify", exact_bundle, "--level", "logits", "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    changes: list[dict[str, object]] = [{"version": 2}, {"extra": 1}, {"results": [{}]}, {"passed": None}]
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**report, **change}, SCHEMA)


class _Page(HTMLParser):
    """Figures with their places, what the page would load, and the JSON that it carries."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.loads, self.data, self._inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "data-figure" in given:
            self.figures.append((given["data-figure"], json.loads(given["data-value"])))
        self.loads += [value for name, value in attributes if name in ("src", "href") and value != "data:,"]
        if tag in ("script", "link", "iframe", "img", "object") and given.get("type") != "application/json":
            self.loads += [tag] if given.get("href") != "data:," else []
        self._inside = given.get("id") == "report"

    def handle_data(self, data):
        self.data += data if self._inside else ""

    def handle_endtag(self, tag):
        self._inside = False


def _look_up(report, place):
    for part in place.split("."):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


@pytest.mark.parametrize("mode", ["checkpoint", "golden", "damaged"])
def test_page_has_the_figures_of_the_json_and_loads_nothing(call, exact_bundle, damaged, runs, tmp_path, mode):
    bundle = damaged if mode == "damaged" else exact_bundle
    arguments = () if mode == "golden" else ("--checkpoint", runs["exact"])
    files = ("--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    call("verify", bundle, *arguments, "--samples", 20, *files)
    report, text = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.html").read_text()
    page = _Page(text)
    assert json.loads(page.data) == report
    assert len(page.figures) > 40
    for place, value in page.figures:
        assert _look_up(report, place) == value
    assert page.loads == []
    assert not re.search(r"url\(|@import|https?://", text.replace(page.data, ""))
    assert ("FAIL</span>" in text) == (mode == "damaged")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")
def test_page_opens_in_a_browser_without_requests_or_errors(call, exact_bundle, runs, tmp_path):
    page, log = tmp_path / "r.html", tmp_path / "net.json"
    call("verify", exact_bundle, "--checkpoint", runs["exact"], "--samples", 20, "--html", page)
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--log-net-log={log}")
    result = subprocess.run(
        ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "PASS</span>" in result.stdout
    assert "CONSOLE" not in result.stderr
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "url" in event.get("params", {})]
    assert [entry["url"] for entry in asked if entry.get("initiator", "not an origin") not in ("not an origin",)] == []


def test_certificate_holds_until_the_bundle_changes(call, exact_bundle, runs, tmp_path):
    bundle = shutil.copytree(exact_bundle, tmp_path / "bundle")
    certificate = tmp_path / "certificate.json"
    code, _, _ = call("verify", bundle, "--checkpoint", runs["exact"], "--samples", 5, "--certificate", certificate)
    assert code == 0
    code, out, _ = call("inspect", bundle, "--certificate", certificate, "--json", tmp_path / "i.json")
    assert code == 0
    assert "certificate holds" in out
    assert "determinism" in out
    shown = json.loads((tmp_path / "i.json").read_text())["certificate"]
    assert shown["holds"]
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


def test_own_tokens_are_compared_and_outputs_kept(call, exact_bundle, runs, tmp_path):
    ids = np.random.default_rng(0).integers(0, 29, (3, 11))
    np.save(tmp_path / "ids.npy", ids)
    arguments = ("--load-inputs", tmp_path / "ids.npy", "--save-outputs", tmp_path / "out.npz", "--level", "logits")
    code, out, _ = call("verify", exact_bundle, "--checkpoint", runs["exact"], *arguments)
    assert code == 0
    assert "3 sequences of 11 tokens from" in out
    with np.load(tmp_path / "out.npz") as saved:
        assert (saved["tokens"] == ids).all()
        expected = saved["oracle.logits"]
        assert expected.shape == (3, 11, 29)
        for form in ("parallel", "recurrent", "onnxruntime"):
            assert 0 < np.abs(saved[f"{form}.logits"] - expected).max() < 1e-4


def test_quantized_weights_pass_their_budget_and_not_rounding(call, exact_bundle, runs, tmp_path):
    """Weights rounded to eight bits per row, as a w8 scheme has them."""
    folder = shutil.copytree(exact_bundle, tmp_path / "bundle")
    for graph in Bundle.open(exact_bundle).manifest.graphs.values():
        model = onnx.load(folder / graph.file)
        for tensor in model.graph.initializer:
            if tensor.name.endswith((".w12", ".w3")):
                array = onnx.numpy_helper.to_array(tensor)
                scale = np.abs(array).max(1, keepdims=True) / 127
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(array / scale) * scale, tensor.name))
        onnx.save(model, folder / graph.file)
    seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    arguments = ("verify", folder, "--checkpoint", runs["exact"], "--samples", 20, "--runtime", "onnxruntime")
    code, out, _ = call(*arguments)
    assert code == 1
    budget = ("--max-kl", 0.01, "--max-argmax-changes", 5, "--max-accuracy-drop", 1)
    code, out, _ = call(*arguments, *budget)
    assert code == 0
    assert "judged by budgets" in out
    assert call(*arguments, "--max-kl", 1e-9)[0] == 1


def test_least_accuracy_is_a_gate(call, exact_bundle):
    assert call("verify", exact_bundle, "--level", "task", "--samples", 20)[0] == 0
    code, out, _ = call("verify", exact_bundle, "--level", "task", "--samples", 20, "--min-accuracy", 99.5)
    assert code == 1  # random weights copy nothing
    assert "asked for" in out


def test_page_survives_a_bundle_that_gives_nothing(call, exact_bundle, tmp_path):
    """NaN from the embedding on: no level has a number to show."""
    folder = _with_weights(exact_bundle, tmp_path, "wte", lambda a: a * np.nan)
    files = ("--html", tmp_path / "r.html", "--json", tmp_path / "r.json")
    code, out, _ = call("verify", folder, "--samples", 5, *files)
    assert code == 1
    assert "stream.00" in out
    jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), SCHEMA)
    assert "FAIL</span>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("name", ["head", "blocks.1.w12", "blocks.0.w3"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_a_failure_that_names_them(call, exact_bundle, runs, tmp_path, name, value):
    folder = _with_weights(
        exact_bundle, tmp_path, name, lambda a: np.where(np.arange(a.size).reshape(a.shape), a, value)
    )
    code, out, _ = call("verify", folder, "--checkpoint", runs["exact"], "--samples", 5, "--runtime", "onnxruntime")
    assert code == 1
    expected = {"head": "head, logits", "blocks.1.w12": "block 1, stream.02", "blocks.0.w3": "block 0, stream.01"}[name]
    assert expected in " ".join(out.split())


def _with_weights(bundle, tmp_path, name, change):
    """A bundle with one tensor changed in all of its graphs, sealed again."""
    folder = shutil.copytree(bundle, tmp_path / "changed")
    for graph in Bundle.open(bundle).manifest.graphs.values():
        model = onnx.load(folder / graph.file)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = change(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
        onnx.save(model, folder / graph.file)
    seal_bundle(folder, Bundle.open(bundle).manifest)
    return folder


def test_bundle_that_was_not_run_is_not_certified(call, damaged, runs, tmp_path):
    arguments = ("--checkpoint", runs["exact"], "--runtime", "recurrent", "--level", "logits")
    code, out, _ = call("verify", damaged, *arguments, "--certificate", tmp_path / "c.json")
    assert code == 0
    assert "the bundle itself was not run: this says nothing about it" in out
    assert "was not written: the bundle itself was not run" in out
    assert list(tmp_path.iterdir()) == []


def test_budget_does_not_pass_what_is_no_number_or_wrong(call, exact_bundle, runs, tmp_path):
    folder = _with_weights(exact_bundle, tmp_path, "head", lambda a: a + np.eye(*a.shape))
    arguments = ("--checkpoint", runs["exact"], "--runtime", "onnxruntime", "--samples", 20, "--max-kl", 0.01)
    for level in ("logits", "state", "split", "layer", "drift"):
        assert call("verify", folder, *arguments, "--level", level)[0] == 1


def test_meaningless_bounds_are_no_pass(call, runs, tmp_path):
    """Pairs cancel to the last bit: rounding may do anything, so nothing is proven."""
    from causalrn.card import ModelCard
    from causalrn.checkpoint import save_checkpoint
    from causalrn.export.cli.export_run import export_bundle
    from tests.builders import random_model

    model = random_model(bias_1=False, blocks=1)
    block = model.blocks[0]
    block.fc_2.weight.data = -block.fc_1.weight.data + 1e-7 * block.fc_2.weight.data
    save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
    export_bundle(tmp_path / "run", tmp_path / "bundle", pool="growing", capacity=None, opset=23)
    code, out, _ = call("verify", tmp_path / "bundle", "--checkpoint", tmp_path / "run", "--level", "logits")
    assert code == 1
    assert "agreement in float32 proves nothing" in out
    assert "block 0 is ill-conditioned" in out
    assert "pair condition" in out


def test_single_sequence_runs_the_graph_for_batches_too(call, exact_bundle, runs, tmp_path):
    folder = shutil.copytree(exact_bundle, tmp_path / "changed")
    model = onnx.load(folder / "step.onnx", load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["logits"]))
    onnx.save(model, folder / "step.onnx")
    seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    np.save(tmp_path / "ids.npy", np.arange(8)[None])
    arguments = ("--load-inputs", tmp_path / "ids.npy", "--level", "logits", "--runtime", "onnxruntime")
    assert call("verify", folder, "--checkpoint", runs["exact"], *arguments)[0] == 1


def test_graph_that_is_another_one_is_one_clear_line(call, bundles, tmp_path):
    folder = shutil.copytree(bundles["exact"], tmp_path / "bundle")
    manifest = Bundle.open(folder).manifest
    for source, words in ((bundles["linear"] / "step.onnx", "not the inputs and outputs"), (None, "not an ONNX graph")):
        (folder / "step_single.onnx").write_bytes(b"junk" if source is None else source.read_bytes())
        seal_bundle(folder, manifest)
        code, _, error = call("verify", folder)
        assert code == 2
        assert "step_single.onnx" in error
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--drift-steps", "9"], ["--drift-steps needs --checkpoint"]),
        (["--load-inputs", "IDS"], ["--load-inputs needs --checkpoint"]),
        (["--max-accuracy-drop", "1"], ["--max-accuracy-drop needs --checkpoint"]),
        (["--level", "logits", "--min-accuracy", "1"], ["--min-accuracy and --level contradict"]),
        (["--checkpoint", "RUN", "--level", "logits", "--drift-steps", "9"], ["--drift-steps and --level contradict"]),
        (["--checkpoint", "RUN", "--steps", "9", "--load-inputs", "IDS"], ["--steps and --load-inputs contradict"]),
        (["--checkpoint", "RUN", "--load-inputs", "IDS", "--save-outputs", "IDS"], ["is an input of this command"]),
        (["--json", "OUT", "--html", "OUT"], ["named for two outputs"]),
        (["--json", "BUNDLE/new.json"], ["lies in the bundle"]),
        (["--json", "BUNDLE/certificate.json"], ["lies in the bundle"]),
        (["--json", "LINK"], ["lies in the bundle"]),
        (["--json", "LOOP"], ["symbolic links"]),
        (["--checkpoint", "RUN", "--load-inputs", "WIDE"], ["token ids from 0 to 99", "vocabulary is 29"]),
        (["--checkpoint", "RUN", "--load-inputs", "LONG"], ["41 tokens per sequence", "capacity is 40"]),
        (["--checkpoint", "RUN", "--load-inputs", "SHORT"], ["one token per sequence"]),
        (["--checkpoint", "RUN", "--drift-steps", "41"], ["--drift-steps 41", "capacity of 40"]),
        (["--checkpoint", "RUN", "--runtime", "parallel", "--level", "state"], ["parallel", "has no state"]),
        (["--checkpoint", "RUN", "--load-inputs", "BROKEN"], ["not a .npy file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) > 1 else None,
)
def test_mistakes_in_verify_are_one_clear_line(call, exact_bundle, runs, tmp_path, options, words):
    bundle = shutil.copytree(exact_bundle, tmp_path / "bundle")
    for name, shape in (("ids", (2, 9)), ("long", (1, 41)), ("short", (2, 1))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.int64))
    np.save(tmp_path / "wide.npy", np.array([[0, 99]]))
    (tmp_path / "broken.npy").write_bytes((tmp_path / "ids.npy").read_bytes().replace(b"{'descr'", b"[[[[[[[["))
    (tmp_path / "link.json").symlink_to(bundle / "weights.bin")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    places = {
        "RUN": runs["exact"],
        "OUT": tmp_path / "out",
        "LINK": tmp_path / "link.json",
        "LOOP": tmp_path / "loop.json",
        "BUNDLE/new.json": bundle / "new.json",
        "BUNDLE/certificate.json": bundle / "certificate.json",
        **{name.upper(): tmp_path / f"{name}.npy" for name in ("ids", "wide", "long", "short", "broken")},
    }
    before = {path: path.is_file() and path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    code, _, error = call("verify", bundle, *(places.get(option, option) for option in options))
    assert code == 2
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert {path: path.is_file() and path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


@pytest.mark.parametrize("value", ["nan", "inf", "1e309"])
@pytest.mark.parametrize("option", ["--time-budget", "--max-kl", "--min-accuracy", "--max-argmax-changes"])
def test_numbers_that_are_none_are_bad_usage(call, exact_bundle, option, value):
    code, _, error = call("verify", exact_bundle, option, value)
    assert code == 2
    assert option in error


def _resealed(change):
    """A certificate with something changed, and its own hash mended."""

    def damage(data):
        from causalrn.runtimes.parity import certificate

        change(data)
        data.pop("certificate_sha256", None)
        data["certificate_sha256"] = certificate._own_hash(data)

    return damage


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(version=2), "version 2"),
        (lambda data: data.update(certificate="other"), "not a certificate"),
        (lambda data: data["report"].update(passed=False), "changed since"),
        (_resealed(lambda data: data["report"].update(passed=False)), "nothing passed"),
        (_resealed(lambda data: data.update(files={})), "malformed"),
        (_resealed(lambda data: data.pop("issued")), "malformed"),
        (_resealed(lambda data: data.update(report=[])), "malformed"),
        (_resealed(lambda data: data["report"].update(results=None)), "nothing passed"),
        (_resealed(lambda data: data["report"]["bundle"].update(sha256="0" * 64)), "not the bundle's"),
        (_resealed(lambda data: data["report"]["results"][0].update(error="x")), "no number"),
        (_resealed(lambda data: data["report"]["results"][0].update(summary=5)), "malformed"),
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
    assert "not checked: state, split, layer, drift, task, determinism" in out


def test_reader_that_goes_away_changes_neither_verdict_nor_files(exact_bundle, tmp_path):
    script = "import sys; sys.argv[0] = 'causalrn-export'; from causalrn.export.cli import main; main()"
    command = [sys.executable, "-c", script, "verify", str(exact_bundle), "--level", "logits", "--json", "r.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment) as process:
        process.stdout.close()
        assert process.wait() == 0
    assert json.loads((tmp_path / "r.json").read_text())["passed"]
