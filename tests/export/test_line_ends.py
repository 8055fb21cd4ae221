"""Bundles of sources keep their line ends in git, and say what happened where they did not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError


def git(folder: Path, *words: str) -> None:
    options = ("core.autocrlf=true", "user.name=nobody", "user.email=nobody@example.org", "core.safecrlf=false")
    command = ["git", *(part for option in options for part in ("-c", option)), *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_sources_with_other_line_ends_say_so(c_bundles, tmp_path):
    bundle = shutil.copytree(c_bundles["linear"], tmp_path / "bundle")
    content = (bundle / "example.c").read_bytes()
    (bundle / "example.c").write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(BundleError, match=r"example\.c: its line ends were turned into CRLF .* '\* -text'"):
        Bundle.open(bundle)
    (bundle / "example.c").write_bytes(content.replace(b"\n", b"\r\n") + b"// more\r\n")
    with pytest.raises(BundleError, match=r"example\.c: \d+ bytes instead of \d+"):
        Bundle.open(bundle)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_with_other_line_ends_leaves_a_bundle_whole(c_bundles, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(c_bundles["linear"], source / "bundle")
    (source / "notes.txt").write_text("one\ntwo\n")
    git(source, "init")
    git(source, "add", ".")
    git(source, "commit", "-m", "a bundle")
    git(tmp_path, "clone", str(source), "copy")
    assert b"\r\n" in (tmp_path / "copy" / "notes.txt").read_bytes(), "git changes line ends here"
    assert Bundle.open(tmp_path / "copy" / "bundle").sha256 == Bundle.open(c_bundles["linear"]).sha256


def test_the_file_for_git_is_one_of_the_bundle(c_bundles, web_bundles):
    for bundle in (c_bundles["linear"], web_bundles["linear"]):
        assert (bundle / ".gitattributes").read_text() == "* -text\n"
        assert ".gitattributes" in Bundle.open(bundle).manifest.files
