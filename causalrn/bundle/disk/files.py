"""Files written whole or not at all, and their hashes. Needs no torch. Folders: :mod:`causalrn.bundle.disk.folders`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.leftovers import is_leftover_of, partial_file, temporary_folder
from causalrn.bundle.disk.reading import read_json_object
from causalrn.errors import InputError
from causalrn.interrupts import holding_interrupts

WEIGHTS_FILE = "weights.bin"
"""Of all graphs of a bundle, or of its C."""
CERTIFICATE_NAME = "certificate.json"
"""The one file of a user that may lie in a bundle's folder: `verify` writes it."""

CERTIFICATE_HASH = "certificate_sha256"
"""Its entry with its own hash."""

STANDARD_OUTPUT = Path("-")
"""What reports are written to where a user names "-"; everything else needs a file."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_DESCRIPTORS = ("/dev", "/dev/fd", "/proc/self/fd")
"""Folders whose entries stand for open files: written to, never replaced."""
_pipes: dict[Path, int] = {}
"""Pipes that are open for a report to come: closed meanwhile, they would end for who reads them."""


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


def json_object_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where it holds none, or is no plain file of a size that ours have."""
    try:
        return read_json_object(path, "")
    except InputError:
        return {}


def check_output_file(path: Path) -> None:
    """Refuse a place that a user's file cannot go to; called before long work starts.

    Raises:
        InputError: the folder does not exist or may not be written to, nobody reads from the pipe `path`, or it is a
            folder, or a file of a bundle or RUN.
    """
    _check_place(path)
    check_outside(path)
    if path.is_fifo() and path not in _pipes:
        _pipes[path] = _open_for_writing(path)


def _check_place(path: Path) -> None:
    if path == STANDARD_OUTPUT:
        raise InputError("`-` is standard output, where only a JSON report goes: name a file")
    try:
        path.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{path} is a circle of symbolic links: name a file") from None
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise InputError(f"{path.parent} is no folder: create it, or name another place")
    if not os.access(path if path.exists() and not is_replaced(path) else parent, os.W_OK):
        raise InputError(f"{path} may not be written to: name another place")


def is_replaced(path: Path) -> bool:
    """Whether a new file takes the place of what is there, not new content."""
    if str(path.absolute().parent) in _OF_DESCRIPTORS or (path.exists() and not path.is_file()):
        return False
    return not path.exists() or os.access(path.resolve().parent, os.W_OK | os.X_OK)


@contextlib.contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside `path`; it takes its place at the end, and is deleted if anything fails.

    Devices, pipes, mounted files, and files in a folder that may not be written to, get the whole content at the end.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
        OSError: it cannot be written; it names `path`.
    """
    _check_place(path)
    if not is_replaced(path):
        with _filled(path) as spool:
            yield spool
        return
    path = path.resolve()  # through symbolic links
    with named_errors(path), partial_file(path) as partial:
        yield partial
        with holding_interrupts():
            partial.chmod(open_mode(is_folder=False))
            try:
                partial.replace(path)
            except OSError as error:
                if error.errno != errno.EBUSY:  # a mounted file
                    raise
                _fill(path, partial)


@contextlib.contextmanager
def _filled(path: Path) -> Iterator[Path]:
    """Give a temporary file to write to, whose content goes into `path` at the end."""
    with temporary_folder() as folder:
        spool = folder / (path.name or "spool")
        yield spool
        with named_errors(path):
            _fill(path, spool)


def _fill(path: Path, content: Path) -> None:
    handle = _pipes.pop(path, None)
    if handle is None:
        handle = _open_for_writing(path)
    with os.fdopen(handle, "wb") as target, content.open("rb") as source:
        shutil.copyfileobj(source, target)


def _open_for_writing(path: Path) -> int:
    """A descriptor of an existing file, device or pipe.

    Raises:
        InputError: a pipe that nobody reads from.
    """
    beginning = os.O_APPEND if str(path.absolute().parent) in _OF_DESCRIPTORS else os.O_TRUNC
    try:
        handle = os.open(path, os.O_WRONLY | beginning | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise InputError(f"{path}: nobody reads from this pipe: start its reader first, or name a file") from None
    os.set_blocking(handle, True)
    return handle


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of the system name what the user knows.

    Args:
        path: what is written; named in the place of its half-written form, and where a disk is full that nothing names.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        if name is None and error.errno in _NO_ROOM:
            error.filename = str(path)
        elif isinstance(name, str) and (partial := _half_written(path, Path(name))) is not None:
            error.filename = str(path / Path(name).relative_to(partial))
            if error.filename2 is not None:
                error.filename2 = str(path)
        raise


def _half_written(path: Path, name: Path) -> Path | None:
    """Where `name` is or lies in the half-written form of `path`, that form."""
    return next((place for place in (name, *name.parents) if is_leftover_of(path.name, place.name)), None)


def check_outside(path: Path) -> None:
    """Refuse a place inside a bundle or checkpoint folder.

    Raises:
        InputError: it lies in one.
    """
    inside = next((parent for parent in path.resolve().parents if _is_ours(parent)), None)
    if inside is not None:
        raise InputError(f"{path} lies in the bundle or RUN {inside.name}: name a place outside")


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a bundle or a RUN."""
    data = (json_object_or_empty(folder / name) for name in ("manifest.json", "config.json"))
    return any(str(found.get("format", "")).startswith("causalrn-") for found in data)


def open_mode(is_folder: bool) -> int:
    """The mode that new files have, or new folders."""
    current = os.umask(0)
    os.umask(current)
    return (0o777 if is_folder else 0o666) & ~current
