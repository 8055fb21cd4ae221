"""Which folders may be replaced: those in which every file is the one that this toolkit wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.files import json_object_or_empty, sha256_file
from causalrn.bundle.disk.leftovers import is_leftover_of
from causalrn.bundle.disk.reading import open_input
from causalrn.bundle.json_values import own_hash

FILES, FOLDERS = "files", "folders"
"""Entries of a marker file: SHA-256 (and size) by file name, and SHA-256 of the marker file by folder name.

Files in a folder that has no marker file are listed as "FOLDER/NAME".
"""
_CACHE_TAG, _CACHE_SIGNATURE = "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55"
"""What marks a folder as one that holds nothing which cannot be made again (bford.info/cachedir), as `make` does."""
_OF_MOUNTS = "lost+found"
"""What a file system puts into its root."""


@dataclass(frozen=True)
class Marker:
    """What tells a folder of ours from somebody's data: a JSON file that records the hash of every other one.

    Attributes:
        file: its name.
        format: its entry "format".
        own_hash: its entry with the hash of its own JSON text without that entry.
        vouching: other files of ours that may lie in the folder and hold their own hash: its entry by file name.
    """

    file: str
    format: str
    own_hash: str
    vouching: Mapping[str, str] = field(default_factory=dict)

    def is_claimed(self, path: Path) -> bool:
        """Whether a folder says that it is one of ours, whole or not."""
        return json_object_or_empty(path / self.file).get("format") == self.format

    def entries(self, path: Path) -> list[str]:
        """Names of what is replaced when the folder `path` is."""
        names = sorted(entry.name for entry in path.iterdir())
        # the folder's own next content lies in it while it is renewed in place
        return [name for name in names if name != _OF_MOUNTS and not is_leftover_of(path.name, name)]

    def foreign(self, path: Path) -> list[str]:
        """Entries of the folder `path` that this toolkit did not write as they are: added, or changed since."""
        data = json_object_or_empty(path / self.file)
        if data.get("format") != self.format:
            return self.entries(path)
        whole = data.get(self.own_hash) == own_hash(data, self.own_hash)
        entries = (path / name for name in self.entries(path))
        return [self._described(entry, data) for entry in entries if not self._is_ours(entry, data, whole)]

    def _is_ours(self, entry: Path, data: Mapping[str, Any], whole: bool) -> bool:
        if entry.name == self.file:
            return whole
        if _is_cache(entry):
            return True
        if entry.name in self.vouching and not entry.is_symlink():
            vouched, key = json_object_or_empty(entry), self.vouching[entry.name]
            return bool(vouched) and vouched.get(key) == own_hash(vouched, key)
        if entry.is_dir() and entry.name not in _mapping(data, FOLDERS):
            return whole and self._is_ours_inside(entry, entry.name, data)
        if entry.is_dir():
            sha256 = _mapping(data, FOLDERS).get(entry.name)
            inside = entry / self.file
            return whole and not entry.is_symlink() and _has_hash(inside, sha256) and not self.foreign(entry)
        return whole and _is_recorded(entry, entry.name, data)

    def _is_ours_inside(self, folder: Path, name: str, data: Mapping[str, Any]) -> bool:
        """Whether a folder that is no bundle holds nothing but files that the marker lists, as "FOLDER/NAME"."""
        inside = [(entry, f"{name}/{entry.name}") for entry in folder.iterdir()]
        return (
            not folder.is_symlink()
            and bool(inside)
            and all(
                self._is_ours_inside(entry, inner, data) if entry.is_dir() else _is_recorded(entry, inner, data)
                for entry, inner in inside
            )
        )

    def _described(self, entry: Path, data: Mapping[str, Any]) -> str:
        listed = {name.partition("/")[0] for name in (*_mapping(data, FILES), *_mapping(data, FOLDERS))}
        known = entry.name == self.file or entry.name in listed
        return f"{entry.name}, changed" if known else entry.name


def _mapping(data: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
    found = data.get(entry)
    return found if isinstance(found, dict) else {}


def _is_recorded(path: Path, name: str, data: Mapping[str, Any]) -> bool:
    recorded = _mapping(data, FILES).get(name)
    return isinstance(recorded, dict) and _has_hash(path, recorded.get("sha256"))


def _has_hash(path: Path, sha256: Any) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _is_cache(entry: Path) -> bool:
    """Whether a folder is marked as a cache."""
    tag = entry / _CACHE_TAG
    if entry.is_symlink() or not tag.is_file():
        return False
    with open_input(tag, "") as file:
        return file.read(len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
