"""Files written whole or not at all, and their hashes. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalrn.errors import InputError


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(data: Any) -> str:
    """JSON as all files of this toolkit have it: indented, one trailing newline, no NaN."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


@contextlib.contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it into place at the end, delete it if anything fails.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder: create it, or name another place")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def written_folder(path: Path, marker: str) -> Iterator[Path]:
    """Give a folder beside `path` to fill; move it into place at the end, delete it if anything fails.

    Args:
        path: where the folder goes. An earlier one is replaced if it is empty or holds a file called `marker`.
        marker: the file that tells a folder of ours from somebody's data.

    Raises:
        InputError: `path` is a file, or a folder that is not ours to replace.
    """
    check_replaceable(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / path.name)
            partial.replace(path)
            shutil.rmtree(old)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(path: Path, marker: str) -> None:
    """Refuse to write over what is not ours; called before long work starts.

    Raises:
        InputError: `path` is a file, or a folder with other things in it and no `marker`.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path} is a file, not a folder: name another output")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(f"{path} holds other files (no {marker}): name another output, or empty it first")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
