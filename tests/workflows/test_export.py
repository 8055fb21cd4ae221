"""Export as a function: what it gives, what it refuses, and that it hashes and folds no more than it has to."""

from __future__ import annotations

import collections
import hashlib

import pytest

import causalrn
from causalrn.bundle import bundle_folder
from causalrn.bundle.disk import files
from causalrn.model import folding
from tests.c_tools import needs_c_compiler


@pytest.fixture
def counted(monkeypatch):
    """How often each file is hashed, by name, and how often weights are folded."""
    hashed: collections.Counter[str] = collections.Counter()
    folded: list[object] = []
    hash_file, make = files.sha256_file, folding.FoldedWeights.__init__

    def count_hash(path):
        hashed[path.name] += 1
        return hash_file(path)

    def count_fold(weights, *arguments, **fields):
        folded.append(weights)
        make(weights, *arguments, **fields)

    monkeypatch.setattr(bundle_folder, "sha256_file", count_hash)
    monkeypatch.setattr(folding.FoldedWeights, "__init__", count_fold)
    return hashed, folded


def test_export_hashes_each_file_at_most_twice_and_folds_once(runs, tmp_path, counted):
    hashed, folded = counted
    bundle = causalrn.export(runs["exact"], output=tmp_path / "bundle").bundle
    assert len(bundle.manifest.files) == 6
    assert set(hashed) == set(bundle.manifest.files)
    assert max(hashed.values()) <= 2
    assert len(folded) == 1


def test_opening_derives_the_state_once(exact_bundle, monkeypatch):
    from causalrn.model import state
    from causalrn.training import card

    derived = []
    derive = state.derive_state

    def count(*arguments, **options):
        derived.append(arguments)
        return derive(*arguments, **options)

    monkeypatch.setattr(card, "derive_state", count)
    with causalrn.open_session(exact_bundle):
        assert len(derived) == 1


def test_exported_bundle_is_the_one_on_disk(runs, tmp_path):
    result = causalrn.export(str(runs["linear"]), output=str(tmp_path / "bundle"))
    assert causalrn.Bundle.open(tmp_path / "bundle") == result.bundle
    text = (tmp_path / "bundle" / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == result.bundle.sha256


def test_result_stands_for_its_folder(runs, tmp_path):
    result = causalrn.export(causalrn.CheckpointFolder.open(runs["exact"]), output=tmp_path / "bundle")
    with causalrn.open_session(result) as session:
        assert session.runtime == "onnxruntime"


@needs_c_compiler
def test_package_is_callable_whoever_imported_it_first(runs, tmp_path):
    import causalrn.export.c99  # binds `export` in the parent package

    assert causalrn.export(runs["exact"], output=tmp_path / "source", target="c").bundle.manifest.target == "c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "tape"}, "`target` 'tape' is unknown: choose one of onnx, c, web"),
        ({"target": "c", "opset": 21}, "`opset` belongs to `target` onnx, and this is c"),
        ({"pool": "ring"}, "`pool` 'ring' is unknown"),
        ({"capacity": 0}, "`capacity` is 0: it must be a whole number"),
        ({"capacity": "9"}, "`capacity` is '9': it must be a whole number"),
        ({"pool8": 1}, "`pool8` is 1: it must be True or False"),
        ({"pool16": True}, "`pool16` belongs to `target` c or web, and this is onnx"),
        ({"target": "web", "beside": 3}, "`beside` is 3: it must be a path"),
        ({"output": None}, "`output` is None: it must be a path"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_clear_error(runs, tmp_path, arguments, message):
    with pytest.raises(causalrn.InputError) as caught:
        causalrn.export(runs["exact"], **{"output": tmp_path / "bundle", **arguments})
    assert message in str(caught.value)
    assert not (tmp_path / "bundle").exists()
