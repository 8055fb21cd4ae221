"""Bundles whose graphs other tools have changed: sealed again if they pass as a whole, left alone if they do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.graph_files import graph_entries

GRAPHS = ("step.onnx", "step_single.onnx", "prefill.onnx")
CHANGED_REMEDY = "`reseal` the bundle with its `checkpoint`"


@pytest.fixture
def bundle(exact_bundle, tmp_path) -> Path:
    """A copy of the exact bundle."""
    return Path(shutil.copytree(exact_bundle, tmp_path / "bundle"))


@pytest.fixture
def reseal(runs):
    """Reseal, with few samples: what is tested is who decides, not the verifier."""
    return lambda bundle, **options: causalrn.reseal(
        bundle, **({"checkpoint": runs["exact"], "samples": 20, "tool": "a tool 1.0"} | options)
    )


def _change(bundle: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    """Change every graph as simplifiers do: weights come inside."""
    for name in GRAPHS:
        model = onnx.load(bundle / name)
        edit(model)
        onnx.save(model, bundle / name)
    (bundle / "weights.bin").unlink()


def _rename_and_drop_entries(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    logits = next(node for node in model.graph.node if "logits" in node.output)
    logits.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Identity", ["before"], ["logits"]))


def _sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Of files that are too large to be read."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_changed_bundles_are_refused_and_the_way_is_named(bundle) -> None:
    _change(bundle, _rename_and_drop_entries)
    (bundle / "weights.bin").write_bytes(b"")
    for refused in (lambda: causalrn.verify(bundle), lambda: causalrn.open_session(bundle)):
        with pytest.raises(causalrn.BundleError, match="reseal") as error:
            refused()
        assert CHANGED_REMEDY in str(error.value)


@pytest.mark.cases(0)
def test_bundles_that_pass_get_hashes_golden_vectors_and_a_record(bundle, reseal, runs) -> None:
    before = Bundle.open(bundle)
    _change(bundle, _rename_and_drop_entries)
    result = reseal(bundle)
    assert result.verification.passed
    after = Bundle.open(bundle)
    assert result.bundle == after
    assert after.sha256 != before.sha256
    assert "weights.bin" not in after.manifest.files
    (record,) = after.manifest.resealed
    assert record.tool == "a tool 1.0"
    assert record.files == {**dict.fromkeys(GRAPHS, "changed"), "weights.bin": "removed"}
    assert record.nodes == {name: {"Identity": 1} for name in GRAPHS}
    assert set(record.restored) == set(GRAPHS)
    for name, graph in after.manifest.graphs.items():
        entries = {entry.key: entry.value for entry in onnx.load(bundle / graph.file).metadata_props}
        assert entries == graph_entries(after.manifest, name)
    assert causalrn.verify(bundle, samples=20).passed  # on a device, without the checkpoint
    with pytest.raises(causalrn.InputError, match="nothing in it has changed"):
        reseal(bundle)


@pytest.mark.cases(0)
def test_every_time_is_recorded(bundle, reseal) -> None:
    _change(bundle, _rename_and_drop_entries)
    reseal(bundle)
    model = onnx.load(bundle / "step.onnx")
    model.doc_string = "edited"
    onnx.save(model, bundle / "step.onnx")
    reseal(bundle, tool="by hand")
    assert [record.tool for record in Bundle.open(bundle).manifest.resealed] == ["a tool 1.0", "by hand"]


def _move_weight(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.1.w3")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[3, 4] += 1e-3
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _swap_states(model: onnx.ModelProto) -> None:
    names = {"row.00.pool": "row.01.pool", "row.01.pool": "row.00.pool"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]


@pytest.mark.cases(1)
@pytest.mark.parametrize("mutate", [_move_weight, _swap_states])
def test_bundles_that_fail_are_left_as_they_are(bundle, reseal, mutate) -> None:
    _change(bundle, mutate)
    before = _content(bundle)
    result = reseal(bundle)
    assert not result.verification.passed
    assert result.bundle is None
    assert _content(bundle) == before
    assert not list(bundle.parent.glob(".*"))


@pytest.mark.cases(0)
def test_graphs_in_onnxruntimes_own_format_are_taken(bundle, reseal) -> None:
    for name in GRAPHS:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.optimized_model_filepath = str((bundle / name).with_suffix(".ort"))
        onnxruntime.InferenceSession(bundle / name, options, providers=["CPUExecutionProvider"])
        (bundle / name).unlink()
    result = reseal(bundle, tool=f"onnxruntime {onnxruntime.__version__}")
    assert result.verification.passed
    after = Bundle.open(bundle)
    assert after.manifest.is_ort_format
    assert after.manifest.streams == ()
    assert set(after.manifest.resealed[0].files.values()) == {"removed", "added"}
    with causalrn.open_session(bundle) as session, causalrn.open_session(bundle) as other:
        tokens = np.array([[0, 5, 6, 7]])
        session.prefill(tokens)
        for token in tokens[0]:
            other.step(np.array([token]))
        assert session.position == other.position == 4
    with pytest.raises(causalrn.InputError, match="onnxruntime's own format"):
        causalrn.quantize(bundle, output=bundle.parent / "small", scheme="w8")


@pytest.mark.cases(0)
def test_bundles_that_were_sealed_again_can_be_quantized(bundle, reseal) -> None:
    _change(bundle, _rename_and_drop_entries)
    reseal(bundle)
    small = causalrn.quantize(bundle, output=bundle.parent / "small", scheme="w8", samples=20).bundle
    assert small.manifest.resealed == Bundle.open(bundle).manifest.resealed


def _golden(bundle: Path) -> None:
    with (bundle / "golden.safetensors").open("ab") as file:
        file.write(b"x")


def _no_graph(bundle: Path) -> None:
    (bundle / "step.onnx").write_bytes(b"\xff" * 100)


def _weights_elsewhere(bundle: Path) -> None:
    model = onnx.load(bundle / "step.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (bundle / "step.onnx").write_bytes(model.SerializeToString())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "other golden vectors": (_golden, "golden.safetensors: changed"),
    "no graph": (_no_graph, "not an ONNX graph"),
    "a missing graph": (lambda bundle: (bundle / "step.onnx").unlink(), "step.onnx: missing"),
    "missing weights": (lambda bundle: (bundle / "weights.bin").unlink(), "weights.bin: a graph reads it"),
    "weights of a terabyte": (lambda bundle: os.truncate(bundle / "weights.bin", 1 << 40), "far larger"),
    "a graph of a terabyte": (lambda bundle: os.truncate(bundle / "step.onnx", 1 << 40), "step.onnx"),
    "weights elsewhere": (_weights_elsewhere, "not beside it"),
    "another file": (lambda bundle: (bundle / "notes.txt").write_text("x"), "notes.txt, which no graph reads"),
    "nothing": (lambda bundle: None, "nothing in it has changed"),
    "no manifest": (lambda bundle: (bundle / "manifest.json").unlink(), "manifest.json"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_a_changed_graph_is_refused_and_kept(bundle, reseal, what) -> None:
    damage, words = BAD[what]
    damage(bundle)
    before = _sizes(bundle)
    with pytest.raises(causalrn.CausalRNError, match=words):
        reseal(bundle)
    assert _sizes(bundle) == before


def test_bundles_of_other_kinds_are_refused(runs, tmp_path, c_bundles, bundle, reseal) -> None:
    with pytest.raises(causalrn.InputError, match="a bundle for c: `reseal` takes ONNX bundles"):
        reseal(c_bundles["exact"])
    with pytest.raises(causalrn.InputError, match="tool"):
        reseal(bundle, tool=3)
    with pytest.raises(causalrn.CausalRNError):
        reseal(tmp_path / "nowhere")


def test_another_checkpoint_is_refused(bundle, reseal, runs) -> None:
    _change(bundle, _rename_and_drop_entries)
    before = _content(bundle)
    with pytest.raises(causalrn.CausalRNError):
        reseal(bundle, checkpoint=runs["linear"])
    assert _content(bundle) == before


def test_command_says_what_changed_and_what_is_wrong(bundle, runs, call) -> None:
    _change(bundle, _rename_and_drop_entries)
    (bundle / "weights.bin").write_bytes(b"")
    arguments = ("reseal", bundle, "--checkpoint", runs["exact"], "--samples", 20, "--tool", "a tool 1.0")
    code, output, error = call(*arguments)
    assert code == 0, error
    assert "a tool 1.0" in output
    assert "+1 Identity" in output
    assert "restored" in output
    code, output, _ = call("inspect", bundle)
    assert "a tool 1.0" in output
    code, _, error = call(*arguments)
    assert code == 2
    assert "nothing in it has changed" in error
    _change_weight = onnx.load(bundle / "prefill.onnx")
    _move_weight(_change_weight)
    onnx.save(_change_weight, bundle / "prefill.onnx")
    code, output, _ = call(*arguments)
    assert code == 1
    assert "was left as it is" in output
