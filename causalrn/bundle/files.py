"""Files written whole or not at all, and their hashes. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from causalrn.errors import InputError

CERTIFICATE_NAME = "certificate.json"
"""The one file of a user that may lie in a bundle's folder: `verify` writes it."""

FOLDERS = "folders"
"""Entry of a JSON file that lists folders of the same kind inside its own: names, and SHA-256 of their JSON files."""

_PARTIAL = ".partial"


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_path(value: str | os.PathLike[str], field: str) -> Path:
    """A path from whatever names one: text, a Path, or an object that stands for a folder, as results do.

    Args:
        field: what it is for, for the error.

    Raises:
        InputError: something that names no path.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"`{field}` is {value!r}: it must be a path, as text or pathlib.Path")
    return Path(text)


def check_output_file(path: Path) -> None:
    """Refuse a place that a user's file cannot go to; called before long work starts.

    Raises:
        InputError: the folder does not exist, `path` is a folder, or a file of a bundle or RUN.
    """
    _check_place(path)
    _check_outside(path)


def _check_place(path: Path) -> None:
    try:
        path.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{path} is a circle of symbolic links: name a file") from None
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.parent} is no folder: create it, or name another place")


@contextlib.contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it into place at the end, delete it if anything fails.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
    """
    _check_place(path)
    if path.exists() and not path.is_file():  # a device or pipe is written to, not replaced
        yield path
        return
    path = path.resolve()  # through symbolic links
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def written_folder(path: Path, marker: Marker) -> Iterator[Path]:
    """Give a folder beside `path` to fill; move it into place at the end, delete it if anything fails.

    Args:
        path: where the folder goes. An earlier one is replaced if :func:`check_replaceable` allows it.

    Raises:
        InputError: `path` is a file, or a folder that is not ours to replace.
    """
    path = path.absolute()
    check_replaceable(path, marker)
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        for entry in (partial, *partial.rglob("*")):
            entry.chmod((0o777 if entry.is_dir() else 0o666) & ~_umask())
        if path.exists():
            _swap(partial, path)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:  # what was made for a folder that did not come
            with contextlib.suppress(OSError):
                parent.rmdir()


def _swap(new: Path, path: Path) -> None:
    """Put `new` in the place of the folder `path`, which is deleted; if that fails, `path` is what it was."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    old = aside / path.name
    try:
        path.replace(old)
        try:
            new.replace(path)
        except OSError:
            old.replace(path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True)
class Marker:
    """What tells a folder of ours from somebody's data: a JSON file with a certain "format" entry.

    Attributes:
        names: files that such a folder holds, beside those that the JSON file lists under "files".
        leftovers: files that a killed process may leave, and that mean nothing.
    """

    file: str
    format: str
    names: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    def is_leftover(self, name: str) -> bool:
        """Whether a killed process may have left this file: one of `leftovers`, or a half-written one of `names`."""
        half_written = name.endswith(_PARTIAL) and any(name.startswith(f".{own}.") for own in (self.file, *self.names))
        return name in self.leftovers or half_written

    def remove_leftovers(self, path: Path) -> None:
        """Delete what killed processes have left in the folder `path`."""
        for entry in list(path.iterdir()):
            if entry.is_file() and self.is_leftover(entry.name):
                entry.unlink()

    def foreign(self, path: Path) -> list[str]:
        """Entries of the folder `path` that this toolkit did not write; all of them where the marker is missing."""
        entries = sorted(entry.name for entry in path.iterdir() if not self.is_leftover(entry.name))
        try:
            data = json.loads((path / self.file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return entries
        if not isinstance(data, dict) or data.get("format") != self.format:
            return entries
        listed = data.get("files")
        ours = {self.file, *self.names, *(listed if isinstance(listed, dict) else ())}
        folders = data.get(FOLDERS)
        for name, sha256 in folders.items() if isinstance(folders, dict) else ():
            if self._is_listed_folder(path / name, sha256):
                entries.remove(name)
        return [name for name in entries if name not in ours or not (path / name).is_file()]

    def _is_listed_folder(self, path: Path, sha256: str) -> bool:
        """Whether a folder holds the very files that it was written with, and nothing of a user's."""
        marker = path / self.file
        if path.is_symlink() or not marker.is_file() or sha256_file(marker) != sha256:
            return False
        return not dataclasses.replace(self, names=()).foreign(path)


def check_replaceable(path: Path, marker: Marker) -> None:
    """Refuse to write over what is not ours; called before long work starts.

    Raises:
        InputError: `path` is a file, the current folder, or a folder with something else in it.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link: name the folder itself")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder: name another output")
    _check_outside(path)
    if not path.is_dir():
        return
    if path.resolve() == Path.cwd():
        raise InputError(f"{path} is the current folder: name another output")
    foreign = marker.foreign(path)
    if foreign:
        raise InputError(f"{path} holds other files ({foreign[0]} ...): name another output, or empty it first")


def _check_outside(path: Path) -> None:
    inside = next((parent for parent in path.resolve().parents if _is_ours(parent)), None)
    if inside is not None:
        raise InputError(f"{path} lies in the bundle or RUN {inside.name}: name a place outside")


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a bundle or a RUN."""
    for name in ("manifest.json", "config.json"):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(data, dict) and str(data.get("format", "")).startswith("causalrn-"):
            return True
    return False


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
