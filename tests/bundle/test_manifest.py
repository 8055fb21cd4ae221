"""The manifest: what is written is what is read, and every change of a bundle is noticed."""

import json
import shutil

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import own_hash
from causalrn.errors import BundleError
from causalrn.runtimes import open_session
from causalrn.training.card import card_of


@pytest.fixture
def bundle(exact_bundle, tmp_path):
    return shutil.copytree(exact_bundle, tmp_path / "bundle")


def _edit(bundle, **changes):
    """Change entries as somebody would who knows the format: with the manifest's own hash renewed."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(data | {"manifest_sha256": own_hash(data, "manifest_sha256")}))


def test_every_file_but_the_manifest_is_hashed(bundle):
    listed = Bundle.open(bundle).manifest.files
    assert sorted(listed) == sorted(path.name for path in bundle.iterdir() if path.name != "manifest.json")


def test_manifest_round_trip(bundle):
    manifest = Bundle.open(bundle).manifest
    assert type(manifest).from_entries(manifest.entries(), "here") == manifest


@pytest.mark.parametrize("name", ["weights.bin", "step.onnx", "step_single.onnx", "prefill.onnx", "golden.safetensors"])
def test_one_flipped_byte_is_noticed(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: content differs"):
        Bundle.open(bundle)


def test_every_changed_character_of_the_manifest_is_noticed_or_means_nothing(bundle):
    path = bundle / "manifest.json"
    text = path.read_text()
    for place in range(0, len(text), 7):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        path.write_text(changed)
        try:
            same = json.loads(changed) == json.loads(text)
        except ValueError:
            same = False
        if same:
            Bundle.open(bundle)
            continue
        with pytest.raises(BundleError, match=r"manifest\.json"):
            Bundle.open(bundle)


def test_truncated_file_is_noticed(bundle):
    (bundle / "step.onnx").write_bytes((bundle / "step.onnx").read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"step\.onnx: \d+ bytes instead of \d+"):
        Bundle.open(bundle)


def test_missing_file_is_noticed(bundle):
    (bundle / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        Bundle.open(bundle)


def test_other_version_says_which(bundle):
    _edit(bundle, version=99)
    with pytest.raises(BundleError, match="manifest version 99, this toolkit reads 1"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zip"}, "not a causalrn bundle"),
        ({"state": {}}, "malformed"),
        ({"graphs": [1]}, "malformed"),
        ({"graphs": {}}, "no graph step"),
        ({"files": []}, "malformed"),
        ({"files": {"../secret": {"sha256": "", "size_bytes": 0}}}, "no plain file name"),
        ({"files": {"step.onnx": {}}}, "the entry sha256 is missing"),
        ({"streams": [1]}, r"streams\[0\]: expected str, got int"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0"),
    ],
)
def test_malformed_manifest_is_one_clear_error(bundle, changes, message):
    _edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"vocabulary": 29}}, "missing"),
        ({"alphabet": "runes"}, "alphabet 'runes' is unknown"),
        ({"task": {"name": "sort"}}, "task"),
        ({"streams": ["stream.00"]}, "1 streams, the model has 3"),
    ],
)
def test_manifest_of_an_impossible_model_is_one_clear_error(bundle, changes, message):
    _edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        card_of(Bundle.open(bundle))
    with pytest.raises(BundleError, match=message):
        open_session(bundle)


def test_state_of_another_model_is_noticed(bundle):
    data = json.loads((bundle / "manifest.json").read_text())
    data["state"]["tensors"] = data["state"]["tensors"][:1]
    _edit(bundle, state=data["state"])
    with pytest.raises(BundleError, match="the state does not belong to the model"):
        card_of(Bundle.open(bundle))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_manifest_that_is_no_json_is_one_clear_error(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(bundle)


def test_missing_folder_and_missing_manifest_differ(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"not a bundle: it is empty"):
        Bundle.open(tmp_path)
