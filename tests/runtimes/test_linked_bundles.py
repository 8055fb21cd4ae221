"""Bundles of links: a store with names of hashes as downloads keep it, and hard links as copies without duplicates."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError
from causalrn.runtimes.opening import open_session


def linked(source: Path, folder: Path, kind: str) -> Path:
    """A bundle whose files are links to those of another one, or to files in one store beside it."""
    (folder / "store").mkdir()
    (folder / "bundle").mkdir()
    for index, path in enumerate(sorted(source.iterdir())):
        target, kept = folder / "bundle" / path.name, folder / "store" / str(index)
        if kind == "hard links":
            os.link(path, target)
        elif kind == "linked weights" and path.name != "weights.bin":
            shutil.copy(path, target)
        else:
            shutil.copy(path, kept)
            target.symlink_to(f"../store/{index}")
    return folder / "bundle"


@pytest.mark.parametrize("kind", ["one store", "linked weights", "hard links"])
def test_a_bundle_of_links_runs_verifies_and_quantizes(call, bundles, tmp_path, kind):
    bundle = linked(bundles["linear"], tmp_path, kind)
    with open_session(bundles["linear"]) as plain, open_session(bundle) as session:
        assert np.array_equal(session.prefill([[0, 3, 4, 5]]), plain.prefill([[0, 3, 4, 5]]))
    code, out, error = call("verify", bundle, "--level", "logits", "--level", "layer")  # streams take other ways
    assert (code, error) == (0, "")
    assert "PASS" in out
    loose = ("--max-kl", 100, "--max-accuracy-drop", 100)
    code, _, error = call("quantize", bundle, "-o", tmp_path / "out", "--scheme", "w8", "--samples", 20, *loose)
    assert code == 0, error
    Bundle.open(tmp_path / "out")


@pytest.mark.parametrize("target", ["c", "web"])
def test_sources_and_modules_may_be_links(request, tmp_path, target):
    source = request.getfixturevalue(f"{target}_bundles")["linear"]
    with open_session(linked(source, tmp_path, "one store")) as session, open_session(source) as plain:
        assert np.array_equal(session.prefill([[0, 3, 4, 5]]), plain.prefill([[0, 3, 4, 5]]))


def test_a_link_to_nowhere_is_named(bundles, tmp_path):
    bundle = linked(bundles["linear"], tmp_path, "one store")
    (bundle / "weights.bin").unlink()
    (bundle / "weights.bin").symlink_to("../store/gone")
    with pytest.raises(BundleError, match=r"weights\.bin: no such file: copy it again"):
        Bundle.open(bundle)


@pytest.mark.skipif(os.name != "posix", reason="no pipes in folders")
def test_a_pipe_in_a_bundle_is_named(bundles, tmp_path):
    bundle = shutil.copytree(bundles["linear"], tmp_path / "bundle")
    (bundle / "weights.bin").unlink()
    os.mkfifo(bundle / "weights.bin")
    with pytest.raises(BundleError, match=r"weights\.bin: a pipe, socket or device, not a file"):
        Bundle.open(bundle)
