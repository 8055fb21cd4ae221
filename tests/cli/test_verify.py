"""`verify` as users call it: what it compares, writes, certifies and refuses."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jsonschema
import numpy as np
import onnx
import pytest
import safetensors.torch

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.runtimes.parity.results import LEVELS
from causalrn.runtimes.parity.verification import Verification
from causalrn.training.checkpoint_folder import CheckpointFolder
from causalrn.workflows.verify_options import every_token
from tests.builders import ROOT
from tests.runtimes.parity.mutants import with_wrong_logits

SCHEMA = json.loads((ROOT / "docs" / "verify-report.schema.json").read_text())


@pytest.mark.cases(1)
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
    CheckpointFolder.open(tmp_path / "run").write_config()
    code, out, _ = call("verify", bundles["exact"], "--checkpoint", tmp_path / "run", "--samples", 5)
    assert code == 1
    assert "other weights" in out
    assert out.rstrip().endswith("FAIL")


@pytest.mark.cases(1)
@pytest.mark.parametrize("damage", ["Neg", "Log"])  # other numbers, or none at all
@pytest.mark.parametrize("graph", ["step", "step_single", "prefill"])
@pytest.mark.parametrize("against", ["checkpoint", "golden"])
def test_verify_notices_damage_in_every_graph(call, exact_bundle, runs, tmp_path, graph, against, damage):
    """The logits of one graph spoiled, and the bundle sealed again: hashes fit, answers do not."""
    bundle = with_wrong_logits(exact_bundle, tmp_path / "bundle", graph, damage)
    arguments = ("--checkpoint", runs["exact"]) if against == "checkpoint" else ()
    code, out, _ = call("verify", bundle, "--samples", 5, *arguments)
    assert code == 1
    assert "head, logits" in out
    assert out.rstrip().endswith("FAIL")


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
    missed = "state, split, layer, calls, drift, task, determinism, kernels, guards"
    assert f"not checked, because of --fail-fast: {missed}" in out


def test_time_budget_names_what_was_not_reached(call, exact_bundle, runs, monkeypatch):
    monkeypatch.setattr(Verification, "_left", lambda self: 1.0 - len(self.results))
    code, out, _ = call("verify", exact_bundle, "--checkpoint", runs["exact"], "--samples", 5)
    assert code == 1  # what was asked for and not done is no pass
    assert "not checked within 300 s: state, split, layer, calls, drift, task, determinism, kernels, guards" in out


@pytest.mark.cases(1)
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
    assert {result["level"] for result in report["results"]} == set(LEVELS)
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


@pytest.mark.cases(1)
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


_NEEDS_BROWSER = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


def _browse(page, folder):
    """Open a page in a headless browser: its text, console messages, and what it asked the network for."""
    log = folder / "net.json"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--log-net-log={log}")
    result = subprocess.run(
        ["chromium", *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    background = (None, "not an origin")  # what the browser itself asks for
    return (
        result.stdout,
        [line for line in result.stderr.splitlines() if "CONSOLE" in line],
        {entry["url"] for entry in asked if "url" in entry and entry.get("initiator") not in background},
    )


@pytest.mark.cases(0)
@_NEEDS_BROWSER
def test_page_opens_in_a_browser_without_requests_or_errors(call, exact_bundle, runs, tmp_path):
    page = tmp_path / "r.html"
    call("verify", exact_bundle, "--checkpoint", runs["exact"], "--samples", 20, "--html", page)
    text, console, requests = _browse(page, tmp_path)
    assert "PASS</span>" in text
    assert (console, requests) == ([], set())


@_NEEDS_BROWSER
def test_browser_notices_requests_and_errors(tmp_path):
    page = tmp_path / "r.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("wrong")</script>')
    _, console, requests = _browse(page, tmp_path)
    assert "wrong" in console[0]
    assert requests == {"http://127.0.0.1:9/x.png"}


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


@pytest.mark.cases(0)
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


@pytest.mark.cases(2)
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


def test_budget_does_not_pass_what_is_no_number_or_wrong(call, exact_bundle, runs, tmp_path):
    folder = _with_weights(exact_bundle, tmp_path, "head", lambda a: a + np.eye(*a.shape))
    arguments = ("--checkpoint", runs["exact"], "--runtime", "onnxruntime", "--samples", 20, "--max-kl", 0.01)
    for level in ("logits", "state", "split", "layer", "drift"):
        assert call("verify", folder, *arguments, "--level", level)[0] == 1


@pytest.mark.cases(0)
def test_meaningless_bounds_are_no_pass(call, runs, tmp_path):
    """Pairs cancel to the last bit: rounding may do anything, so agreement says nothing."""
    from causalrn.training.card import ModelCard
    from causalrn.training.checkpoint import save_checkpoint
    from causalrn.workflows.export_targets import export_bundle
    from tests.builders import random_model

    model = random_model(bias_1=False, blocks=1)
    block = model.blocks[0]
    block.fc_2.weight.data = -block.fc_1.weight.data + 1e-7 * block.fc_2.weight.data
    save_checkpoint(tmp_path / "run", model, ModelCard(model.config), {})
    export_bundle(tmp_path / "run", tmp_path / "bundle", pool="growing", capacity=None, opset=23)
    code, out, _ = call("verify", tmp_path / "bundle", "--checkpoint", tmp_path / "run", "--level", "logits")
    assert code == 1
    assert "agreement in float32 says nothing" in out
    assert "block 0 is ill-conditioned" in out
    assert "pair condition" in out


def test_single_sequence_runs_the_graph_for_batches_too(call, exact_bundle, runs, tmp_path):
    folder = with_wrong_logits(exact_bundle, tmp_path / "changed")
    np.save(tmp_path / "ids.npy", np.arange(8)[None])
    arguments = ("--load-inputs", tmp_path / "ids.npy", "--level", "logits", "--runtime", "onnxruntime")
    assert call("verify", folder, "--checkpoint", runs["exact"], *arguments)[0] == 1


def test_every_token_id_is_compared_and_huge_vocabularies_stay_in_memory():
    for vocabulary in (2, 29, 256, 2048):
        tokens = every_token(vocabulary)
        assert all(sorted(column) == list(range(vocabulary)) for column in tokens.T.tolist())
    tokens = every_token(50_257)
    assert tokens.shape == (83, 2)
    assert (tokens.min(), tokens.max()) == (0, 50_256)
