"""Bad input to `verify`: one clear line, exit 2, nothing written."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from tests.builders import ROOT


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


def test_weights_that_are_cut_short_are_named(call, bundles, tmp_path):
    """Hashes fit: whoever sealed the bundle lost the rest."""
    folder = shutil.copytree(bundles["exact"], tmp_path / "bundle")
    content = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(content[: len(content) // 2])
    seal_bundle(folder, Bundle.open(bundles["exact"]).manifest)
    code, _, error = call("verify", folder)
    assert code == 2
    assert "its weights are cut short or missing: export it again" in error
    assert error.count("\n") == 1


def test_reader_that_goes_away_changes_neither_verdict_nor_files(exact_bundle, tmp_path):
    script = "import sys; sys.argv[0] = 'causalrn-export'; from causalrn.cli import main; main()"
    command = [sys.executable, "-c", script, "verify", str(exact_bundle), "--level", "logits", "--json", "r.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment) as process:
        process.stdout.close()
        assert process.wait() == 0
    assert json.loads((tmp_path / "r.json").read_text())["passed"]


def _in_graph(bundle, tmp_path, graph, change):
    """A bundle with one graph changed, sealed again."""
    folder = shutil.copytree(bundle, tmp_path / "changed")
    model = onnx.load(folder / f"{graph}.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, folder / f"{graph}.onnx")
    return seal_bundle(folder, Bundle.open(bundle).manifest).path


def _after(output, op, inputs=(), **attributes):
    """Something done to an output before it leaves the graph."""

    def change(graph):
        for node in graph.node:
            node.output[:] = [f"{name}.right" if name == output else name for name in node.output]
        names = [f"{output}.right"]
        for index, values in enumerate(inputs):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), f"{output}.{index}"))
            names.append(f"{output}.{index}")
        graph.node.append(onnx.helper.make_node(op, names, [output], **attributes))
        for value in graph.output:
            if value.name == output:
                value.type.tensor_type.ClearField("shape")
                if op == "Cast":
                    value.type.tensor_type.elem_type = attributes["to"]

    return change


@pytest.mark.parametrize(
    ("readout", "graph", "change", "word"),
    [
        ("exact", "step_single", _after("logits", "Slice", [[0], [28], [2]]), "logits"),
        ("exact", "prefill", _after("logits", "Slice", [[0], [3], [1]]), "logits"),
        ("exact", "step", _after("row.00.pool", "Slice", [[0], [31], [2]]), "row.00.pool"),
        ("exact", "prefill", _after("logits", "Cast", to=onnx.TensorProto.DOUBLE), "logits"),
        ("linear", "step", _after("logits", "Slice", [[0], [28], [2]]), "step graph cannot run"),
    ],
)
def test_outputs_of_another_shape_are_one_clear_line(call, bundles, tmp_path, readout, graph, change, word):
    code, _, error = call("verify", _in_graph(bundles[readout], tmp_path, graph, change), "--samples", 5)
    assert code == 2
    assert word in error
    assert "export the bundle again" in error
    assert error.count("\n") == 1


@pytest.mark.cases(1)
@pytest.mark.parametrize("pool", ["fixed", "concat"])
def test_bundles_of_every_pool_check_themselves(call, runs, tmp_path, pool):
    assert call("export", runs["exact"], "-o", tmp_path / "bundle", "--pool", pool)[0] == 0
    code, out, error = call("verify", tmp_path / "bundle", "--samples", 5)
    assert (code, out.rstrip()[-4:]) == (0, "PASS"), error
