"""Folders in a bundle that are no bundles, as Core ML's packages: listed, checked, replaced, and no way out."""

import dataclasses
import shutil

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.folders import check_replaceable
from causalrn.bundle.manifest import BUNDLE_MARKER, FileEntry
from causalrn.errors import BundleError, InputError
from causalrn.runtimes.parity.guards.damaged_bundles import damaged_bundle_guards

INNER = "step.package/Data/weights.bin"


@pytest.fixture
def bundle(exact_bundle, tmp_path):
    """A bundle with files in folders."""
    folder = tmp_path / "bundle"
    shutil.copytree(exact_bundle, folder)
    (folder / INNER).parent.mkdir(parents=True)
    (folder / INNER).write_bytes(b"weights" * 100_000)
    (folder / "step.package" / "Manifest.json").write_text("{}")  # "manifest.json" to a file system without case
    return seal_bundle(folder, Bundle.open(exact_bundle).manifest)


def test_files_in_folders_are_listed_and_checked(bundle):
    opened = Bundle.open(bundle.path)
    assert {INNER, "step.package/Manifest.json"} < set(opened.manifest.files)
    assert not opened.manifest.folders
    assert opened.file(INNER).read_bytes() == b"weights" * 100_000
    assert INNER in opened.names


def test_a_changed_file_in_a_folder_is_named(bundle):
    (bundle.path / INNER).write_bytes(b"weighty" * 100_000)
    with pytest.raises(BundleError, match=r"weights\.bin: content differs"):
        Bundle.open(bundle.path)


def test_a_missing_file_in_a_folder_is_named(bundle):
    (bundle.path / INNER).unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        Bundle.open(bundle.path)


def test_a_bundle_with_folders_can_be_replaced(bundle):
    assert check_replaceable(bundle.path, BUNDLE_MARKER) == []


def added(bundle):
    (bundle.path / "step.package" / "Data" / "own.txt").write_text("mine")


def changed(bundle):
    (bundle.path / INNER).write_bytes(b"mine")


def linked(bundle):
    shutil.move(bundle.path / "step.package", bundle.path.parent / "elsewhere")
    (bundle.path / "step.package").symlink_to(bundle.path.parent / "elsewhere")


def empty_folder(bundle):
    (bundle.path / "own").mkdir()


@pytest.mark.parametrize("touch", [added, changed, linked, empty_folder])
def test_what_a_user_put_into_a_folder_is_not_replaced(touch, bundle):
    touch(bundle)
    with pytest.raises(InputError, match="holds other files"):
        check_replaceable(bundle.path, BUNDLE_MARKER)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/x", "a//b", "a/", "a/./b", ""])
def test_names_that_leave_the_bundle_are_refused(name, bundle):
    files = {**bundle.manifest.files, name: FileEntry("0" * 64, 1)}
    with pytest.raises(ValueError, match="no plain file name"):
        dataclasses.replace(bundle.manifest, files=files).check()


def test_damaged_copies_are_refused(bundle):
    figures, left = damaged_bundle_guards(bundle.path)
    assert not left
    assert any(INNER in figure.name for figure in figures)
    assert all(figure.passed for figure in figures), [figure for figure in figures if not figure.passed]
