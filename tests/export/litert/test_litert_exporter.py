"""Conversion to LiteRT: the verifier runs before the bundle is put in place, and what is wrong never gets there."""

from functools import partial

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import Conversion
from causalrn.errors import ConfigError, InputError, VerificationError
from causalrn.export.litert import litert_exporter
from causalrn.export.litert.litert_exporter import MODEL_FILE
from causalrn.export.litert.litert_quantizer import quantize_model
from causalrn.workflows.export import export
from tests.converted_tools import names_swapped, needs, one_weight_off

needs_litert = needs("litert")
MUTANTS = {
    "one weight off by 1e-3": one_weight_off,
    "two states swapped": lambda content, run: names_swapped(content, b"row_00_pool", b"row_01_pool"),
    "two pasts swapped": lambda content, run: names_swapped(content, b"past_00_pool", b"past_01_pool"),
}


@needs_litert
@pytest.mark.parametrize("mutate", MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_conversion_leaves_nothing(mutate, litert_bundles, runs, tmp_path, monkeypatch):
    wrong = mutate((litert_bundles["exact"] / MODEL_FILE).read_bytes(), runs["exact"])
    monkeypatch.setattr(litert_exporter, "convert_cell", lambda cell, chunk: wrong)
    with pytest.raises(VerificationError, match="do not compute what was trained"):
        export(runs["exact"], output=tmp_path / "out", target="litert")
    assert list(tmp_path.iterdir()) == []


@needs_litert
def test_the_same_conversion_unchanged_is_written(litert_bundles, runs, tmp_path, monkeypatch):
    content = (litert_bundles["exact"] / MODEL_FILE).read_bytes()
    monkeypatch.setattr(litert_exporter, "convert_cell", lambda cell, chunk: content)
    export(runs["exact"], output=tmp_path / "out", target="litert")
    assert (tmp_path / "out" / MODEL_FILE).read_bytes() == content


@needs_litert
def test_the_manifest_says_how_it_was_converted(litert_bundles):
    manifest = Bundle.open(litert_bundles["exact"]).manifest
    assert manifest.converted is not None
    assert (manifest.converted.describe(), manifest.opset, manifest.index_type) == ("xnnpack, float32", None, "int32")
    assert {graph.file for graph in manifest.graphs.values()} == {MODEL_FILE}
    assert {"litert-torch", "ai-edge-litert", "torch", "causalrn"} == set(manifest.created_with)
    assert manifest.state.pool == "fixed"


@needs_litert
@pytest.mark.parametrize("scheme", ["w8", "w8a8-dynamic"])
def test_weights_are_int8_and_within_the_budget(scheme, litert_bundles, runs, tmp_path, monkeypatch):
    content = (litert_bundles["exact"] / MODEL_FILE).read_bytes()
    monkeypatch.setattr(litert_exporter, "convert_cell", lambda cell, chunk: content)
    result = export(runs["exact"], output=tmp_path / "out", target="litert", scheme=scheme)
    assert result.report is not None
    assert result.bundle.manifest.quantization.scheme == result.bundle.manifest.converted.precision == scheme
    assert (tmp_path / "out" / MODEL_FILE).stat().st_size < len(content) - 3 * 64 * 32


def test_other_schemes_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="w8, w8a8-dynamic"):
        quantize_model(b"", "w4")


@needs_litert
def test_other_pools_are_refused(runs, tmp_path):
    refused = partial(export, runs["exact"], output=tmp_path / "out", target="litert")
    with pytest.raises(ConfigError, match="`pool` growing is nothing that LiteRT has"):
        refused(pool="growing")
    with pytest.raises(InputError, match="`max_batch` belongs to"):
        refused(max_batch=2)
    assert not (tmp_path / "out").exists()


def test_without_the_extra_one_line_says_what_to_install(call, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Conversion, "is_installed", property(lambda row: False))
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", "--target", "litert")
    assert code == 2
    assert err.strip().endswith("this needs LiteRT, which is not installed: pip install 'causalrn[litert]'")
    assert not (tmp_path / "out").exists()
