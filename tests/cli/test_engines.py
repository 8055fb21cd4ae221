"""`verify` and `run` on engine bundles: on a fake GPU (tests/runtimes/trt/fake_gpu.py), and where there is none."""

import dataclasses
import json

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import BUDGETS
from causalrn.errors import (
    DriverMissingError,
    EngineVersionError,
    FlavorMissingError,
    GpuFailureError,
    MalformedEngineError,
)
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes.trt import trt_session
from causalrn.runtimes.trt.device_state import DeviceState
from tests.runtimes.trt.fake_gpu import FakeDevice, fake_compile, pretend_gpu


@pytest.fixture
def sources(bundles, fixed_bundle):
    return {"fixed": fixed_bundle, "growing": bundles["exact"], "linear": bundles["linear"]}


SIZES = {"fixed": Sizes(capacities=(8,)), "growing": Sizes(growing=((1, 20, 40),)), "linear": Sizes(max_batch=3)}


@pytest.fixture
def engine(sources, tmp_path, monkeypatch):
    """A function that gives an engine bundle of a kind, which runs on a fake GPU."""

    def _engine(kind, **sizes):
        source = Bundle.open(sources[kind])
        fake_compile(source, tmp_path / "engine", monkeypatch, dataclasses.replace(SIZES[kind], **sizes))
        pretend_gpu(source, monkeypatch)
        return tmp_path / "engine"

    return _engine


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", SIZES)
def test_engines_are_verified_from_their_golden_vectors(kind, engine, call, tmp_path):
    code, out, err = call("verify", engine(kind), "--samples", 60, "--json", tmp_path / "r.json")
    assert code == 0, out + err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "PASS"
    assert report["not_executed"] is None
    assert {result["level"] for result in report["results"]} == set(report["settings"]["levels"])
    assert report["settings"]["forms"] == ["tensorrt"]
    assert "layer" not in report["settings"]["levels"]


@pytest.mark.cases(0)
def test_engines_are_verified_against_the_oracle(engine, runs, call):
    code, out, err = call("verify", engine("fixed"), "--checkpoint", runs["exact"], "--samples", 20, "--steps", 20)
    assert code == 0, out + err
    assert "tensorrt" in out
    assert "recurrent" in out


@pytest.mark.cases(0)
@pytest.mark.parametrize("kind", ["fixed", "linear"])
def test_engines_for_one_sequence_are_verified_one_by_one(kind, engine, call):
    code, out, err = call("verify", engine(kind, max_batch=1), "--samples", 5)
    assert code == 0, out + err


def test_wrong_engine_fails(engine, call, monkeypatch):
    path = engine("fixed")
    outputs = DeviceState.outputs

    def swapped(self, time):
        places = outputs(self, time)
        return places[::-1]

    monkeypatch.setattr(DeviceState, "outputs", swapped)
    code, out, _ = call("verify", path, "--samples", 5)
    assert code == 1
    assert "FAIL" in out


def test_generation_is_the_same_as_in_onnxruntime(engine, sources, call):
    arguments = ("--prompt", "abc", "--max-new-tokens", 12)
    code, out, _ = call("run", sources["fixed"], *arguments)
    assert call("run", engine("fixed"), *arguments)[:2] == (code, out) == (0, out)
    assert call("run", engine("fixed"), *arguments, "--no-cuda-graph")[:2] == (0, out)


def test_state_is_saved_on_one_gpu_and_resumed_on_another(engine, call, tmp_path):
    path, state = engine("fixed"), tmp_path / "s.safetensors"
    _, whole, _ = call("run", path, "--prompt", "abc", "--max-new-tokens", 8)
    _, first, _ = call("run", path, "--prompt", "abc", "--max-new-tokens", 3, "--state-out", state)
    code, rest, err = call("run", path, "--state-in", state, "--max-new-tokens", 5)
    assert code == 0, err
    assert first.strip("\n") + rest == whole


def test_teacher_forced_logits(engine, call, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(20).reshape(1, 20))
    path = engine("linear")
    for mode in ("step", "prefill", "mixed"):
        code, _, err = call(
            "run", path, "--input-ids", tmp_path / "ids.npy", "--logits", tmp_path / mode, "--mode", mode
        )
        assert code == 0, err
    step, prefill = (np.load(tmp_path / mode) for mode in ("step", "prefill"))
    np.testing.assert_allclose(step, prefill, atol=1e-5)


NOT_EXECUTED = [
    DriverMissingError("no NVIDIA GPU: run it elsewhere"),
    EngineVersionError("compiled by another version: compile again"),
    FlavorMissingError("not installed: pip install it"),
]


@pytest.mark.parametrize("error", NOT_EXECUTED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("checked", ["golden", "oracle"])
def test_compiled_and_not_executed_is_a_verdict_of_its_own(error, checked, engine, runs, call, monkeypatch, tmp_path):
    path = engine("fixed")

    def fails(*arguments):
        raise error

    monkeypatch.setattr(trt_session, "Engines", fails)
    against = ["--checkpoint", runs["exact"], "--samples", 5, "--steps", 5] if checked == "oracle" else []
    files = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--certificate", tmp_path / "c.json"]
    code, out, err = call("verify", path, *against, *files)
    assert code == 3, out + err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "compiled, not executed"
    assert report["passed"] is False
    assert report["not_executed"] == str(error)
    assert bool(report["results"]) == (checked == "oracle"), "the forms that can run are still verified"
    assert str(error) in " ".join(out.split())
    assert "compiled, not executed" in (tmp_path / "r.html").read_text()
    assert not (tmp_path / "c.json").exists()
    assert "PASS" not in out
    assert call("run", path, "--prompt", "abc")[0] == 3


def test_gpu_that_breaks_off_fails_and_keeps_the_results_so_far(engine, call, monkeypatch, tmp_path):
    path = engine("fixed")
    synchronize, calls = FakeDevice.synchronize, []

    def fails(self):
        calls.append(1)
        if len(calls) > 300:
            raise GpuFailureError("CUDA error 700 (an illegal memory access)")
        synchronize(self)

    monkeypatch.setattr(FakeDevice, "synchronize", fails)
    code, out, _ = call("verify", path, "--samples", 5, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (code, report["verdict"]) == (1, "FAIL")
    assert report["results"]
    assert "broken off: CUDA error 700" in report["problems"][0]
    assert "broken off" in out


def test_gpu_without_room_for_a_further_session_fails_with_a_report(engine, call, monkeypatch, tmp_path):
    path, created = engine("fixed"), FakeDevice.__init__
    opened: list[FakeDevice] = []

    def create(self):
        created(self)
        opened.append(self)
        self.room = 0 if len(opened) > 1 else None

    monkeypatch.setattr(FakeDevice, "__init__", create)
    code, _, _ = call("verify", path, "--samples", 5, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (code, report["verdict"]) == (1, "FAIL")
    assert "no room for its state" in report["problems"][0]


@pytest.mark.cases(0)
def test_recorded_logits_of_a_quantized_bundle_are_not_compared(fixed_bundle, call, monkeypatch, tmp_path):
    quantized = tmp_path / "w8"
    options = ["--scheme", "w8", "--form", "qdq", "--max-kl", 100, "--max-accuracy-drop", 100]
    assert call("quantize", fixed_bundle, "-o", quantized, *options)[0] == 0
    source = Bundle.open(quantized)
    fake_compile(source, tmp_path / "engine", monkeypatch)
    pretend_gpu(source, monkeypatch)
    code, out, err = call("verify", tmp_path / "engine", "--samples", 5, "--max-kl", 100, "--max-argmax-changes", 100)
    assert code == 0, out + err
    assert "tensorrt, recorded" not in out
    assert "onnxruntime recorded logits with other roundings" in " ".join(out.split())


def test_tf32_is_judged_by_the_budget_of_float16(fixed_bundle, call, monkeypatch, tmp_path):
    source, folder = Bundle.open(fixed_bundle), tmp_path / "engine"
    manifest = fake_compile(source, folder, monkeypatch).manifest
    assert manifest.engine is not None
    seal_bundle(folder, dataclasses.replace(manifest, engine=dataclasses.replace(manifest.engine, tf32=True)))
    pretend_gpu(source, monkeypatch)
    code, _, err = call("verify", folder, "--level", "logits", "--json", tmp_path / "r.json")
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["budget"]["kl_divergence"] == BUDGETS["fp16"].kl_divergence
    assert report["settings"]["gpu"] == "fake"


def test_runtime_cache_that_is_a_report_too_is_refused(engine, call, tmp_path):
    code, _, err = call("verify", engine("fixed"), "--runtime-cache", tmp_path / "x", "--json", tmp_path / "x")
    assert code == 2
    assert "named for two outputs" in err


@pytest.mark.parametrize("form", ["recurrent", "parallel"])
def test_verdict_on_other_forms_alone_is_not_one_on_the_engines(form, engine, runs, call):
    code, out, _ = call("verify", engine("fixed"), "--checkpoint", runs["exact"], "--runtime", form, "--samples", 5)
    assert code == 3
    assert out.splitlines()[-1] == "compiled, not executed"
    assert "the engines were not run: --runtime leaves them out" in " ".join(out.split())


def test_form_without_a_state_is_verified_where_it_can_be(fixed_bundle, runs, call):
    arguments = ("--checkpoint", runs["exact"], "--runtime", "parallel", "--samples", 5)
    code, out, _ = call("verify", fixed_bundle, *arguments)
    assert code == 0, out
    words = " ".join(out.split())
    assert "carries a state: state, split, calls, drift, determinism, guards were not checked" in words
    assert "the bundle itself was not run" in words


def test_malformed_engine_is_bad_input(engine, call, monkeypatch):
    path = engine("fixed")

    def fails(*arguments):
        raise MalformedEngineError("step.engine: not an engine")

    monkeypatch.setattr(trt_session, "Engines", fails)
    code, _, err = call("verify", path)
    assert code == 2
    assert "not an engine" in err


def test_options_of_another_runtime_are_refused(engine, sources, call, tmp_path):
    path = engine("fixed")
    for arguments, option in [
        ((path, "--provider", "cuda"), "--provider"),
        ((path, "--threads", 2), "--threads"),
        ((sources["fixed"], "--no-cuda-graph"), "--no-cuda-graph"),
        ((sources["fixed"], "--runtime-cache", tmp_path / "cache"), "--runtime-cache"),
    ]:
        code, _, err = call("run", *arguments, "--prompt", "abc")
        assert code == 2
        assert option in err


def test_layers_of_an_engine_cannot_be_asked_for(engine, call):
    code, _, err = call("verify", engine("fixed"), "--level", "layer")
    assert code == 2
    assert "engines do not show what happens between blocks" in err


@pytest.mark.parametrize("verb", ["quantize", "compile"])
def test_engine_bundle_is_no_source(verb, engine, call, tmp_path):
    more = ["--scheme", "w8"] if verb == "quantize" else []
    code, _, err = call(verb, engine("fixed"), "-o", tmp_path / "out", *more)
    assert code == 2
    assert "a bundle for tensorrt" in err


def test_inspect_shows_how_engines_were_compiled(engine, call):
    code, out, _ = call("inspect", engine("fixed"))
    assert code == 0
    words = " ".join(out.split())
    assert "TensorRT-RTX 1.7.0.0, no TF32" in words
    assert "step: 1 sequence, 1 token, 8 rows" in words
    assert "prefill: 1 to 16 sequences (best 1), 1 to 16 tokens, 40 rows" in words
    assert "step.engine" in out
