"""Half-written files and folders: named after what they become, locked by who writes them, swept up when that one died.

What a command writes lies beside its place as `.NAME.xxxx.partial` until it is whole; a folder that makes room lies
there as `.NAME.xxxx.old`. A killed process leaves them. Its lock is gone with it (flock(2), which the system releases),
so the next command that writes to the same place can tell them from those of a process that is still at work. Temporary
folders are kept and swept in the same way.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from causalrn.interrupts import holding_interrupts

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]

PARTIAL, ASIDE = ".partial", ".old"


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Give a new file beside `path`, locked until the end of the block; it is deleted there if it is still there."""
    sweep(path)
    with contextlib.ExitStack() as stack:
        with holding_interrupts():  # nothing may be made that nobody deletes
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
            stack.callback(_delete_file, Path(name), handle)
        _lock(handle)
        yield Path(name)


def _delete_file(partial: Path, handle: int) -> None:
    with holding_interrupts():
        os.close(handle)
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def partial_folder(path: Path, parent: Path | None = None) -> Iterator[Path]:
    """Give a new folder for what becomes `path`, locked until the end of the block; it is deleted there.

    Args:
        parent: where it is made; beside `path` by default.
    """
    sweep(path, parent)
    with contextlib.ExitStack() as stack:
        with holding_interrupts():
            partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=parent or path.parent))
            stack.callback(_delete_folder, partial)
        with locked(partial):
            yield partial


def _delete_folder(partial: Path) -> None:
    with holding_interrupts():
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a temporary folder, deleted at the end of the block; those of processes that were killed go first."""
    with partial_folder(Path(tempfile.gettempdir()) / "causalrn") as folder:
        yield folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that no other process takes it for a leftover."""
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            _lock(handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def sweep(path: Path, parent: Path | None = None) -> None:
    """Delete what killed processes left of `path`; a folder that made room, with nothing in its place, is put back."""
    place = parent or path.parent
    for leftover in sorted(_leftovers(path, place)):
        if not is_dead(leftover):
            continue
        if leftover.suffix == ASIDE and not path.exists():
            leftover.replace(path)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def restore(path: Path) -> None:
    """Put back the folder `path` that a killed process had moved aside; nothing where there is none, or no right to."""
    if path.exists():
        return
    with contextlib.suppress(OSError):
        if any(leftover.suffix == ASIDE for leftover in _leftovers(path, path.absolute().parent)):
            sweep(path.absolute())


def _leftovers(path: Path, place: Path) -> list[Path]:
    """Entries of the folder `place` with the names of `path`'s half-written and outdated forms."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        return [place / entry.name for entry in entries if is_leftover_of(path.name, entry.name)]
    return []


def is_leftover_of(name: str, candidate: str) -> bool:
    """Whether a file or folder is called as half-written and outdated forms of `name` are."""
    return re.fullmatch(rf"\.{re.escape(name)}\.[a-z0-9_]{{8}}\.(partial|old)", candidate) is not None


def is_plain_name(name: str) -> bool:
    """Whether a name stays in its folder wherever it is appended."""
    return Path(name).name == name and name not in ("", ".", "..")


def is_inner_name(name: str) -> bool:
    """Whether a name, or one like "FOLDER/NAME", stays in its folder wherever it is appended."""
    return all(is_plain_name(part) for part in name.split("/"))


def is_dead(leftover: Path) -> bool:
    """Whether nobody holds its lock any more; false where that cannot be told."""
    if fcntl is None or leftover.is_symlink() or not (leftover.is_file() or leftover.is_dir()):
        return False
    with contextlib.suppress(OSError):
        handle = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(handle)
    return False


def _lock(handle: int) -> None:
    """Lock an open file or folder; where the file system has no locks, others cannot take it for dead either."""
    try_lock(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where another one has it. True where there are no locks."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # the file system has no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True
