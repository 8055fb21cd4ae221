"""`compile` as users call it; engines are built for real where TensorRT-RTX is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.trt_flavors import RTX
from causalrn.export.trt import engine_writer
from causalrn.export.trt.builder import build_engine
from tests.runtimes.trt.test_engine import needs_no_gpu, needs_rtx


@needs_rtx
def test_compiled_bundle_is_inspected_and_not_passed_without_a_gpu(fixed_bundle, call, tmp_path):
    output, report, layers = tmp_path / "engine", tmp_path / "c.json", tmp_path / "layers.json"
    options = ["--capacity", 8, "--max-batch", 4, "--json", report, "--export-layer-info", layers]
    code, out, err = call("compile", fixed_bundle, "-o", output, *options)
    assert code == 0, err
    assert "1 sequence, 1 token, 8 rows" in out
    assert "compiled, not executed; on the machine with the GPU: causalrn-export verify" in " ".join(out.split())
    bundle, said = Bundle.open(output), json.loads(report.read_text())
    assert said["bundle_sha256"] == bundle.sha256
    assert said["engine"]["source_sha256"] == Bundle.open(fixed_bundle).sha256
    assert said["executed"] is False
    graphs = json.loads(layers.read_text())["graphs"]
    assert {name: len(each) for name, each in graphs.items()} == said["layers"]
    assert bundle.manifest.engine.options == {"layer_details": True}
    assert call("inspect", output)[0] == 0


@needs_rtx
@needs_no_gpu
def test_verdict_without_a_gpu_is_neither_a_pass_nor_a_failure(bundles, call, tmp_path):
    assert call("compile", bundles["linear"], "-o", tmp_path / "engine", "--max-batch", 1)[0] == 0
    code, out, err = call("verify", tmp_path / "engine", "--json", tmp_path / "v.json")
    assert code == 3, err
    assert out.splitlines()[-1] == "compiled, not executed"
    assert json.loads((tmp_path / "v.json").read_text())["results"] == []
    code, out, err = call("run", tmp_path / "engine", "--prompt", "abc")
    assert (code, out) == (3, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


@needs_rtx
def test_growing_pool_with_profiles(exact_bundle, call, tmp_path):
    code, out, err = call("compile", exact_bundle, "-o", tmp_path / "e", "--profile", "1/8/16", "--profile", "17/30/40")
    assert code == 0, err
    assert "17 to 40 rows (best 30)" in out
    assert Bundle.open(tmp_path / "e").manifest.state.pool == "growing"


@needs_rtx
def test_earlier_engines_are_replaced_only_by_whole_ones(fixed_bundle, exact_bundle, call, tmp_path):
    output = tmp_path / "engine"
    assert call("compile", fixed_bundle, "-o", output, "--max-batch", 1)[0] == 0
    before = Bundle.open(output).sha256
    assert call("compile", fixed_bundle, "-o", output, "--compute-capability", "9.0")[0] == 2
    assert call("compile", exact_bundle, "-o", output)[0] == 2
    assert Bundle.open(output).sha256 == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert call("compile", fixed_bundle, "-o", output, "--max-batch", 2)[0] == 0
    assert Bundle.open(output).manifest.engine.max_batch == 2


@needs_rtx
@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (("w8",), "blocks.0.w12_Q8: MatMulNBits is not ONNX's operation"),
        (("w8a8-dynamic",), "scales computed at run time (DynamicQuantizeLinear)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_form_that_tensorrt_cannot_take_names_node_and_remedy(scheme, words, bundles, call, tmp_path):
    assert call("quantize", bundles["linear"], "-o", tmp_path / "q", "--scheme", *scheme, "--max-kl", 100)[0] == 0
    code, _, err = call("compile", tmp_path / "q", "-o", tmp_path / "engine")
    assert code == 2
    assert words in err
    assert "quantize the float32 bundle with" in err
    assert not (tmp_path / "engine").exists()


@needs_rtx
def test_float16_is_compiled_for_the_oldest_gpu_and_int8_is_not(bundles, call, tmp_path):
    for scheme, code in ((["fp16"], 0), (["w8", "--form", "qdq"], 2)):
        folder = tmp_path / scheme[0]
        assert call("quantize", bundles["linear"], "-o", folder, "--scheme", *scheme, "--max-kl", 100)[0] == 0
        arguments = ("compile", folder, "-o", tmp_path / "engine", "--compute-capability", "7.5")
        found, _, err = call(*arguments)
        assert found == code, err
        assert code == 0 or "needs compute capability 8.0 [compute-capability]" in err


MISTAKES = [
    (("--profile", "1/8"), "'1/8' is not MIN/OPT/MAX"),
    (("--profile", "1/x/8"), "'1/x/8' is not MIN/OPT/MAX"),
    (("--profile", "1/-8/8"), "'1/-8/8' is not MIN/OPT/MAX"),
    (("--profile", "1/8/40"), "--profile is for pools that are growing"),
    (("--json", "engine"), "lies in the output"),
    (("--export-layer-info", "engine"), "lies in the output"),
    (("--capacity", "41"), "holds 40 rows"),
    (("--capacity", "1"), "1 is not in the range"),
    (("--max-batch", "0"), "0 is not in the range"),
    (("--workspace", "0"), "0 is not in the range"),
    (("--flavor", "openvino"), "'openvino' is not one of"),
    (("--json", "same", "--export-layer-info", "same"), "named for two outputs"),
]


@pytest.mark.parametrize(
    ("options", "words"), MISTAKES, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_mistakes_are_one_line_and_leave_nothing(options, words, fixed_bundle, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("compile", fixed_bundle, "-o", tmp_path / "engine", *options)
    assert code == 2
    assert words in err
    assert not list(tmp_path.iterdir())


def test_profiles_that_end_before_the_golden_vectors_are_refused(exact_bundle, call, tmp_path):
    code, _, err = call("compile", exact_bundle, "-o", tmp_path / "engine", "--profile", "1/8/20")
    assert code == 2
    assert "have 40 tokens: end at 40 at least" in err


def test_output_that_is_the_source_is_refused(fixed_bundle, call):
    code, _, err = call("compile", fixed_bundle, "-o", fixed_bundle)
    assert code == 2
    assert "is the bundle itself" in err


def resealed(source, folder, damage):
    """A copy of a bundle whose files were changed, and whose hashes fit."""
    shutil.copytree(source, folder)
    damage(folder)
    seal_bundle(folder, Bundle.open(source).manifest)
    return folder


UNREADABLE = "not an ONNX graph that can be read"
DAMAGES = {
    "garbage": (lambda folder: (folder / "step.onnx").write_bytes(b"garbage"), f"step.onnx: {UNREADABLE}"),
    "empty": (lambda folder: (folder / "prefill.onnx").write_bytes(b""), "not the inputs of the manifest"),
    "cut": (lambda folder: (folder / "weights.bin").write_bytes(b"short"), "step.onnx: the weights of"),
    "gone": (lambda folder: (folder / "weights.bin").unlink(), "lists no file weights.bin"),
    "prefill": (lambda folder: shutil.copy(folder / "prefill.onnx", folder / "step.onnx"), "where a step should be"),
}


@needs_rtx
@pytest.mark.parametrize("damage", DAMAGES)
def test_bundle_with_another_content_than_it_should_have(damage, fixed_bundle, call, tmp_path):
    change, words = DAMAGES[damage]
    source = resealed(fixed_bundle, tmp_path / "source", change)
    code, _, err = call("compile", source, "-o", tmp_path / "engine")
    assert code == 2
    assert words in err
    assert "export the bundle again" in err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@needs_rtx
def test_source_without_golden_vectors_is_compiled_with_a_note(bundles, call, tmp_path):
    source = resealed(bundles["linear"], tmp_path / "s", lambda folder: (folder / "golden.safetensors").unlink())
    code, out, err = call("compile", source, "-o", tmp_path / "engine", "--max-batch", 1)
    assert code == 0, err
    assert "has no golden vectors: `verify` will need --checkpoint" in " ".join(out.split())


@needs_rtx
@pytest.mark.parametrize("full", ["--json", "--export-layer-info"])
def test_reports_are_written_both_or_not_at_all(full, bundles, call, tmp_path):
    other = {"--json": "--export-layer-info", "--export-layer-info": "--json"}[full]
    (tmp_path / "kept").write_text("old")
    options = [full, "/dev/full", other, tmp_path / "kept", "--max-batch", 1]
    code, _, err = call("compile", bundles["linear"], "-o", tmp_path / "engine", *options)
    assert code == 2
    assert "the disk is full" in err
    assert (tmp_path / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@needs_rtx
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_building_leaves_nothing(number, bundles, tmp_path, monkeypatch, call):
    """TensorRT swallows what is raised within its messages: there, an interrupt has to wait."""

    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        return build_engine(*arguments)

    monkeypatch.setattr(engine_writer, "build_engine", interrupted)
    code, _, err = call("compile", bundles["linear"], "-o", tmp_path / "engine", "--max-batch", 1)
    assert (code, err.splitlines()[-1]) == (130, "Error: interrupted")
    assert not list(tmp_path.iterdir())


def test_run_is_no_bundle(runs, call, tmp_path):
    code, _, err = call("compile", runs["linear"], "-o", tmp_path / "engine")
    assert code == 2
    assert "not a bundle" in err


def test_without_the_extra_it_says_what_to_install(bundles, call, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    hidden = ("tensorrt_rtx", "tensorrt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in hidden else real(name, *more))
    for flavor, extra in (("rtx", "tensorrt-rtx"), ("trt", "tensorrt")):
        code, _, err = call("compile", bundles["linear"], "-o", tmp_path / "engine", "--flavor", flavor)
        assert code == 2
        assert f"not installed: pip install 'causalrn[{extra}]'" in err
    assert not list(tmp_path.iterdir())
    assert not RTX.is_installed
