"""Folders that cannot be renamed (mount points, or below a folder that may not be written to) are renewed in place.

The new files are complete in a folder inside before anything changes; then a journal says what goes and what comes, and
the files change places one by one, the marker file (a bundle's manifest) first to go and last to come. Whoever reads
meanwhile finds no bundle rather than a mixture, and a process that is killed leaves what :func:`settle` finishes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from causalrn.bundle.disk.leftovers import is_dead, is_plain_name
from causalrn.bundle.disk.reading import read_input
from causalrn.errors import InputError

COMING, GOING = ".causalrn-new", ".causalrn-old"
"""Folders inside the one that is renewed: what is to come and the journal, and what has to go."""
_JOURNAL = ".journal.json"


def must_write_inside(path: Path) -> bool:
    """Whether a folder can only be renewed in place: it is a mount point, or its parent may not be written to."""
    return path.is_dir() and (path.is_mount() or not os.access(path.absolute().parent, os.W_OK | os.X_OK))


class Journal(msgspec.Struct, frozen=True):
    """What a renewal does: written beside the new files before anything changes.

    Attributes:
        folder: device and inode of the folder that is renewed: a journal that came with somebody's copy means nothing.
        marker: name of the file that goes first and comes last.
        going: names that are replaced.
        coming: names that take their place.
    """

    folder: tuple[int, int]
    marker: str
    going: tuple[str, ...]
    coming: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal of a renewal that was begun in the folder `path`; None where there is none of this folder."""
        try:
            journal = msgspec.json.decode(read_input(path / COMING / _JOURNAL, "", most_bytes=1 << 20), type=cls)
        except (InputError, msgspec.DecodeError):
            return None
        names = (*journal.going, *journal.coming)
        is_ours = journal.folder == _identity(path) and all(is_plain_name(name) for name in names)
        return journal if is_ours else None


def renew(path: Path, new: Path, going: Iterable[str], marker: str) -> None:
    """Let the content of `new`, a folder inside `path`, take the place of what is in `path`.

    Args:
        going: names in `path` that are replaced; all others stay.
        marker: name of the file that goes first and comes last.
    """
    coming = tuple(sorted(entry.name for entry in new.iterdir()))
    journal = Journal(_identity(path), marker, tuple(sorted(going)), coming)
    (new / _JOURNAL).write_bytes(msgspec.json.encode(journal))
    new.replace(path / COMING)
    _change_places(path, journal)


def settle(path: Path) -> None:
    """Finish a renewal that a killed process began in the folder `path`; nothing where there is none."""
    coming = path / COMING
    if not coming.is_dir() or not is_dead(coming):
        return
    journal = Journal.read(path)
    if journal is not None:
        _change_places(path, journal)
    elif not any(coming.iterdir()):  # all that it had to do has been done
        coming.rmdir()


def _change_places(path: Path, journal: Journal) -> None:
    """Everything that is still to do: what has been done before is seen from where the files are."""
    coming, going = path / COMING, path / GOING
    going.mkdir(exist_ok=True)
    for name in sorted(journal.going, key=lambda name: name != journal.marker):
        has_come = name in journal.coming and not (coming / name).exists()
        if (path / name).exists() and not has_come:
            (path / name).replace(going / name)
    for name in sorted(journal.coming, key=lambda name: name == journal.marker):
        if (coming / name).exists():
            (coming / name).replace(path / name)
    shutil.rmtree(going)
    (coming / _JOURNAL).unlink()
    coming.rmdir()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
