"""`quantize` refuses what it cannot use, in one line, and leaves everything as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.quantization import NARROW_POOLS
from causalrn.errors import BundleError
from tests.cli.test_quantize import LOOSE, hashes


def test_interrupted_quantize_leaves_everything_as_it_was(quantize, exact_bundle, tmp_path, monkeypatch):
    quantize("--scheme", "w8", *LOOSE)
    source, output = hashes(exact_bundle), hashes(tmp_path / "out")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("causalrn.calibration.schemes.save_golden", interrupt)
    code, _, _ = quantize("--scheme", "w4", *LOOSE)
    assert code == 130
    assert hashes(exact_bundle) == source
    assert hashes(tmp_path / "out") == output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "name a --scheme, --pool8 or --pool16"),
        (("--pool8", "--pool16"), "--pool8 and --pool16 contradict each other: leave one out"),
        (("--scheme", "fp16", "--pool16"), "fp16 has float16 pools by itself: leave pool16 out"),
        (("--scheme", "w8a8", "--form", "qdq"), "--form"),
        (("--scheme", "w8", "--method", "entropy"), "--method"),
        (("--scheme", "w8a8", "--percentile", 99), "--percentile"),
        (("--scheme", "w8a8", "--calibration", "missing.json"), "missing.json"),
        (("--scheme", "w8", "--load-inputs", "missing.npy"), "missing.npy"),
        (("--scheme", "w8", "--keep-blocks-fp32", "many"), "neither a number"),
        (("--scheme", "w8", "--keep-blocks-fp32", -1), "neither a number"),
        (("--scheme", "w8", "--text", "missing.txt"), "--text"),
        (("--scheme", "w8", "--keep-blocks-fp32", 3), "has to be quantized"),
        (("--pool8", "--keep-blocks-fp32", 1), "--keep-blocks-fp32"),
        (("--scheme", "w8", "--sequences", 9), "--sequences"),
        (("--scheme", "w8", "--plot", "picture.gif"), ".png"),
        (("--scheme", "w8", "--max-kl", "nan"), "--max-kl"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(options, words, quantize, tmp_path):
    code, _, err = quantize(*options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "beyond", "short", "long", "float", "text"])
def test_wrong_calibration_data_is_refused_by_name(damage, quantize, tmp_path):
    path = tmp_path / "ids.npy"
    arrays = {
        "empty": np.zeros((0, 5), np.int64),
        "beyond": np.full((3, 5), 29),
        "short": np.zeros((3, 1), np.int64),
        "long": np.zeros((3, 41), np.int64),
        "float": np.zeros((3, 5)),
    }
    if damage == "text":
        path.write_text("")
    else:
        np.save(path, arrays[damage])
    code, _, err = quantize("--scheme", "w8a8", "--load-inputs", path)
    assert code == 2
    assert "ids.npy" in err
    assert len(err.splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ids.npy"]


@pytest.mark.parametrize("output", ["source", "file", "foreign", "inside", "link"])
def test_outputs_that_hold_something_else_are_refused(output, call, exact_bundle, tmp_path):
    places = {"source": exact_bundle, "file": tmp_path / "file", "foreign": tmp_path / "foreign"}
    places |= {"inside": exact_bundle / "sub", "link": tmp_path / "link" / "sub"}
    (tmp_path / "link").symlink_to(exact_bundle)
    places["file"].write_text("mine")
    places["foreign"].mkdir()
    (places["foreign"] / "notes.txt").write_text("mine")
    before = hashes(exact_bundle)
    code, _, err = call("quantize", exact_bundle, "-o", places[output], "--scheme", "w8")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert hashes(exact_bundle) == before
    assert (places["foreign"] / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("option", ["--json", "--plot", "--save-calibration"])
def test_side_files_do_not_go_into_the_output(option, quantize, tmp_path):
    (tmp_path / "out").mkdir()
    for place in (tmp_path / "out" / "file.png", tmp_path / "out"):
        code, _, err = quantize("--scheme", "w8a8", option, place, *LOOSE)
        assert code == 2
        assert len(err.splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_no_bundle_appears_where_a_report_cannot_be_written(option, quantize, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "report")

    name = "workflows.pages.quantize_plot.save_plot" if option == "--plot" else "cli.quantize_command.write_json"
    monkeypatch.setattr(f"causalrn.{name}", full)
    code, _, err = quantize("--scheme", "w8", option, tmp_path / "report.png", *LOOSE, output="new/out")
    assert code == 2
    assert "disk is full" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "dtype"), NARROW_POOLS.items())
def test_manifest_does_not_contradict_its_pools(quantize, tmp_path, name, dtype):
    quantize("--scheme", "w8", f"--{name}", *LOOSE)
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.quantization is not None
    assert bundle.manifest.quantization.describe() == f"w8 (nbits), {name}"
    lie = dataclasses.replace(bundle.manifest.quantization, **{name: False})
    with pytest.raises(BundleError, match=f"contradicts pools of {dtype}"):
        seal_bundle(tmp_path / "out", dataclasses.replace(bundle.manifest, quantization=lie))


def test_runs_tables_and_quantized_bundles_are_not_quantized(call, quantize, runs, bundles, tmp_path):
    quantize("--scheme", "w8", *LOOSE)
    for source, words in ((runs["exact"], "not a bundle"), (tmp_path / "out", "quantized already")):
        code, _, err = call("quantize", source, "-o", tmp_path / "again", "--scheme", "w8")
        assert code == 2
        assert words in err
    code, _, err = call("quantize", bundles["linear"], "-o", tmp_path / "again", "--pool16")
    assert code == 2
    assert "leave pool16 out" in err
