"""Bundles on disk: opened with every hash checked, and sealed by writing their manifest. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from causalrn.bundle.disk.files import WEIGHTS_FILE, sha256_file
from causalrn.bundle.disk.folders import recover_to_read
from causalrn.bundle.disk.reading import check_input, read_input
from causalrn.bundle.json_values import json_text
from causalrn.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest_text, writing_verb
from causalrn.bundle.model_card import MODEL_CARD, model_card
from causalrn.errors import BundleError

GIT_ATTRIBUTES = ".gitattributes"
KEEP_LINE_ENDS = "* -text\n"
"""What a bundle of sources has in the file of that name: else git may change line ends, and hashes fit no more."""
_LARGEST_TEXT_BYTES = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files have been checked against their hashes.

    Attributes:
        sha256: hash of the manifest, and through it of every file: what state files are bound to.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest and check every file's size and hash.

        Raises:
            BundleError: the folder, manifest or a file is missing, corrupt or changed.
        """
        text = read_manifest_text(path)
        manifest = Manifest.parse(text, path)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry, _remedy(manifest, name))
        for name, sha256 in manifest.folders.items():
            if cls.open(path / name).sha256 != sha256:
                raise BundleError(
                    f"{path / name}: another bundle than the manifest says: {writing_verb(manifest.target)} again"
                )
        return cls(path, manifest, hashlib.sha256(text.encode()).hexdigest())

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its files, the manifest first; those of a bundle in it as "FOLDER/NAME", last."""
        inside = ((name, Manifest.read(self.path / name)) for name in self.manifest.folders)
        nested = (f"{folder}/{name}" for folder, manifest in inside for name in (MANIFEST_NAME, *manifest.files))
        return (MANIFEST_NAME, *self.manifest.files, *nested)

    def __fspath__(self) -> str:
        """Its path: the object can be given wherever a path can."""
        return os.fspath(self.path)

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: the manifest lists no file {name}: export the bundle again")
        return self.path / name


def seal_bundle(folder: Path, manifest: Manifest, hashed: Mapping[str, FileEntry] | None = None) -> Bundle:
    """Write the model card, hash every file in `folder` and bundle in it, and write the manifest beside them.

    Args:
        hashed: files that were hashed before and have not changed since.

    Raises:
        BundleError: the manifest contradicts itself or the files.
    """
    (folder / MODEL_CARD).unlink(missing_ok=True)  # it may be another bundle's, linked
    (folder / MODEL_CARD).write_text(model_card(manifest), encoding="utf-8")
    known = {name: entry for name, entry in (hashed or {}).items() if name != MODEL_CARD}
    inside = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _holds_bundle(path)}
    files = {
        name: known.get(name) or FileEntry(sha256_file(path), path.stat().st_size)
        for name, path in ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")))
        if path.is_file() and name != MANIFEST_NAME and name.partition("/")[0] not in inside
    }
    folders = {name: sha256_file(path / MANIFEST_NAME) for name, path in inside.items()}
    sealed = dataclasses.replace(manifest, files=files, folders=folders)
    text = json_text(sealed.entries())
    try:
        sealed.check()
    except ValueError as error:
        raise BundleError(f"{folder}: a manifest that cannot be ({error})") from None
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return Bundle(folder, sealed, hashlib.sha256(text.encode()).hexdigest())


def _holds_bundle(folder: Path) -> bool:
    """Whether a bundle lies in a folder; a file system that knows no case would find Core ML's Manifest.json, too."""
    return any(entry.name == MANIFEST_NAME for entry in folder.iterdir())


def is_bundle(path: Path) -> bool:
    """Whether the folder claims to be a bundle; what a killed process left of one is mended first."""
    recover_to_read(path)
    return os.path.lexists(path / MANIFEST_NAME)


def _remedy(manifest: Manifest, name: str) -> str:
    """What to do about a file that is not what the manifest says."""
    again = f"copy it again, or {writing_verb(manifest.target)} again"
    is_graph = name == WEIGHTS_FILE or any(name == graph.file for graph in manifest.graphs.values())
    if manifest.target != "onnx" or manifest.state.is_own or not is_graph:
        return again
    return f"{again}; or if it was changed on purpose, `reseal` the bundle with its `checkpoint`"


def _check_file(path: Path, entry: FileEntry, remedy: str) -> None:
    if not os.path.lexists(path):
        raise BundleError(f"{path}: missing from the bundle: {remedy}")
    size = check_input(path, remedy, BundleError)
    if size == entry.size_bytes and sha256_file(path) == entry.sha256:
        return
    if _has_other_line_ends(path, size, entry):
        if path.name == MODEL_CARD:  # the one text that bundles without .gitattributes have: it says the same
            return
        raise BundleError(
            f"{path}: its line ends were turned into CRLF (by git's core.autocrlf, or an editor): check it out again "
            f"with a .gitattributes beside it that says {KEEP_LINE_ENDS.strip()!r}, or {remedy}"
        )
    if size != entry.size_bytes:
        raise BundleError(f"{path}: {size} bytes instead of {entry.size_bytes}: {remedy}")
    raise BundleError(f"{path}: content differs from the manifest's SHA-256: {remedy}")


def _has_other_line_ends(path: Path, size: int, entry: FileEntry) -> bool:
    """Whether a text is what the manifest says, but for a carriage return before some ends of lines."""
    if not entry.size_bytes < size <= 2 * entry.size_bytes or size > _LARGEST_TEXT_BYTES:
        return False
    content = read_input(path, "copy it again", BundleError).replace(b"\r\n", b"\n")
    return len(content) == entry.size_bytes and hashlib.sha256(content).hexdigest() == entry.sha256
