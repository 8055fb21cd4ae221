"""Folders of ours, bundles and checkpoint folders: written whole or not at all, and replaced only if they are ours."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from causalrn.bundle.disk.files import check_outside, named_errors, open_mode
from causalrn.bundle.disk.inplace import must_write_inside, renew, settle
from causalrn.bundle.disk.leftovers import ASIDE, locked, partial_folder, restore, sweep
from causalrn.bundle.disk.ownership import Marker
from causalrn.errors import InputError
from causalrn.interrupts import holding_interrupts

_SHOWN = 3
"""Names in a message."""


@contextlib.contextmanager
def written_folder(path: Path, marker: Marker, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder to fill; it takes the place of `path` at the end, and is deleted if anything fails.

    A folder that cannot be renamed, as a mount point, is renewed in place: see :mod:`causalrn.bundle.disk.inplace`.

    Args:
        path: where the folder goes. An earlier one is replaced if :func:`check_replaceable` allows it.
        overwrite: replace a folder of ours with files that are not.

    Raises:
        InputError: `path` is a file, or a folder that is not ours to replace.
        OSError: it cannot be written; it names what could not, below `path`.
    """
    path = path.absolute()
    check_replaceable(path, marker, overwrite)
    inside = must_write_inside(path)
    missing = [parent for parent in path.parents if not parent.exists()]
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial_folder(path, path if inside else None) as partial:
                yield partial
                with holding_interrupts():
                    _put_in_place(partial, path, marker, overwrite)
        finally:
            for parent in missing:  # what was made for a folder that did not come
                with contextlib.suppress(OSError):
                    parent.rmdir()


@contextlib.contextmanager
def renewed_folder(path: Path, marker: Marker) -> Iterator[Path]:
    """Give a new folder to fill; its files take the place of those with the same names, and all others stay.

    Args:
        path: where they go; it is made where there is none.

    Raises:
        OSError: they cannot be written: then all is as it was. It names what could not, below `path`.
    """
    path = path.absolute()
    if not path.is_dir():
        with written_folder(path, marker) as folder:
            yield folder
        return
    settle(path)
    with named_errors(path), partial_folder(path, path) as partial:
        yield partial
        with holding_interrupts():
            _set_modes(partial)
            renew(
                path, partial, [entry.name for entry in partial.iterdir() if (path / entry.name).exists()], marker.file
            )


def _set_modes(folder: Path) -> None:
    """The modes that the user's umask asks for: temporary folders are private."""
    for entry in (folder, *folder.rglob("*")):
        entry.chmod(open_mode(entry.is_dir()))


def _put_in_place(new: Path, path: Path, marker: Marker, overwrite: bool) -> None:
    _set_modes(new)
    if not path.exists():
        new.replace(path)
        return
    check_replaceable(path, marker, overwrite)  # once more: the work took its time
    if new.parent == path:
        renew(path, new, marker.entries(path), marker.file)
        return
    try:
        with locked(path):
            _swap(new, path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):  # a mount that nothing else shows
            raise
        with partial_folder(path, path) as copy:
            shutil.copytree(new, copy, dirs_exist_ok=True)
            renew(path, copy, marker.entries(path), marker.file)


def _swap(new: Path, path: Path) -> None:
    """Let two folders change places at once; the old one ends as `new`, which is deleted.

    Where the system cannot do that, the old one moves aside first. A process that is killed in between leaves it there,
    and :func:`causalrn.bundle.disk.leftovers.restore` puts it back.
    """
    if exchange(new, path):
        return
    aside = new.with_suffix(ASIDE)
    path.replace(aside)
    try:
        new.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step (renameat2(2) of Linux); False where this system has no such call.

    Raises:
        OSError: EBUSY or EXDEV: one of them is a mount point.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    at_working_folder, exchange_flag = -100, 2
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(at_working_folder, names[0], at_working_folder, names[1], exchange_flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EBUSY, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(second))
    return False


def check_replaceable(path: Path, marker: Marker, overwrite: bool = False) -> Sequence[str]:
    """Refuse to write over what is not ours; called before long work starts.

    What a killed process left is put back or swept away first.

    Args:
        overwrite: files that were added or changed may go, as long as the folder was one of ours.

    Returns:
        What was added or changed, and goes.

    Raises:
        InputError: `path` is a file, the current folder, cannot be written to, or a folder with something else in it.
    """
    _check_place(path, marker)
    if not path.is_dir():
        return ()
    foreign, is_claimed = marker.foreign(path), marker.is_claimed(path)
    if foreign and not (overwrite and is_claimed):
        remedy = "or add `overwrite`, which deletes them" if is_claimed else "or empty it first"
        raise InputError(f"{path} holds other files ({shown(foreign)}): name another output, {remedy}")
    return foreign


def check_renewable(path: Path, marker: Marker) -> None:
    """Refuse a folder in which files are to be renewed, and all others stay; called before long work starts.

    Raises:
        InputError: as :func:`check_replaceable`; but files beside ours are no obstacle.
    """
    _check_place(path, marker)
    if path.is_dir() and not marker.is_claimed(path) and (foreign := marker.foreign(path)):
        raise InputError(f"{path} holds other files ({shown(foreign)}): name another output, or empty it first")


def shown(names: Sequence[str], most: int = _SHOWN) -> str:
    """Names in a message: a few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _check_place(path: Path, marker: Marker) -> None:
    """Refuse a place where no folder of ours can be; what a killed process left there is mended first."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link: name the folder itself")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder: name another output")
    check_outside(path)
    _check_writable(path)
    recover(path, marker)
    if path.is_dir() and path.resolve() == Path.cwd():
        raise InputError(f"{path} is the current folder: name another output")


def _check_writable(path: Path) -> None:
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    place = place if place != path or must_write_inside(path) else path.absolute().parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place} may not be written to: name another output")


def recover(path: Path, marker: Marker) -> None:
    """Finish or undo what a killed process began with the folder `path`, and delete what it left there."""
    path = path.absolute()
    sweep(path)
    if path.is_dir():
        sweep(path, path)
        settle(path)
        for name in (marker.file, *marker.vouching):
            sweep(path / name)


def recover_to_read(path: Path) -> None:
    """The same for who only reads: what had been moved aside comes back; leftovers stay."""
    path = path.absolute()
    with contextlib.suppress(OSError):
        restore(path)
        settle(path)
