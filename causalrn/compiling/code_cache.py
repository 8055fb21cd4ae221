"""Where compiled code is kept: what is loaded from there is this user's own, and whole.

An entry is a file `KEY-SHA256SUFFIX`: the key is of what went in, the hash of what came out, so an entry that was cut
short or changed does not carry its own hash.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from causalrn.bundle.disk.files import sha256_file
from causalrn.errors import FallbackWarning, RuntimeUnavailableError

CACHE_VARIABLE = "CAUSALRN_CACHE"
_WORK = ".compiling-"
_ABANDONED_S = 3600.0
"""After so long nobody compiles there any more: no compiler is given as much time."""
_NO_EXECUTION = "programs cannot be run from there (noexec)"


def cache_folder() -> Path:
    """The user's folder, or where it cannot be used one for this process only, with a warning that says why."""
    try:
        folder = _chosen_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it is loaded: nobody else should write to it
        why = _why_unfit(folder)
    except RuntimeError:
        return private_folder("no home folder was found")
    except OSError as error:
        why = error.strerror or str(error)
    return private_folder(f"{folder}: {why}") if why else folder


def _chosen_folder() -> Path:
    chosen, caches = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if chosen:  # platformdirs would take a third of what a device may grow by
        return Path(chosen).absolute()
    return (Path(caches).absolute() if caches else Path.home() / ".cache") / "causalrn"


def _why_unfit(folder: Path) -> str:
    """Why code cannot be kept in a folder, or must not be loaded from there; empty where it can."""
    if not _is_own(folder.stat()):
        return "it is not yours alone, so others could put code there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it cannot be written to"
    return "" if _can_execute(folder) else _NO_EXECUTION


def _is_own(found: os.stat_result) -> bool:
    """Whether a file belongs to this user or to root, and nobody else may change it."""
    if not hasattr(os, "geteuid"):  # such systems have no modes
        return True
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _can_execute(folder: Path) -> bool:
    noexec = getattr(os, "ST_NOEXEC", 0)
    return not noexec or not os.statvfs(folder).f_flag & noexec


def private_folder(why: str) -> Path:
    """A folder for this process only, deleted at its end.

    Args:
        why: the user's folder is not used, with its name.

    Raises:
        RuntimeUnavailableError: there is no place for one.
    """
    folder = _process_folder()
    if folder is None:
        raise RuntimeUnavailableError(
            f"compiled code cannot be kept ({why}), nor in {tempfile.gettempdir()}: "
            f"set {CACHE_VARIABLE} to a folder of yours from which programs can be run"
        )
    warnings.warn(
        f"compiled code is kept for this process only ({why}): set {CACHE_VARIABLE} to a folder of yours from which "
        "programs can be run",
        FallbackWarning,
        stacklevel=2,
    )
    return folder


@functools.cache
def _process_folder() -> Path | None:
    for place in filter(None, (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/var/tmp")):
        with contextlib.suppress(OSError):
            if _can_execute(Path(place)):
                folder = Path(tempfile.mkdtemp(prefix="causalrn-", dir=place))
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                return folder
    return None


def find_entry(folder: Path, key: str, suffix: str) -> Path | None:
    """What is kept under a key: a file of this user's that carries its own hash. Others are deleted."""
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        with contextlib.suppress(OSError):  # somebody else has just deleted it
            found = path.lstat()
            is_whole = stat.S_ISREG(found.st_mode) and _is_own(found)
            if is_whole and path.name == f"{key}-{sha256_file(path)}{suffix}":
                return path
            path.unlink()
    return None


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A folder to compile in, deleted at the end; those of processes that were killed go, too."""
    for path in folder.glob(f"{_WORK}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=folder, ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def keep_entry(made: Path, folder: Path, key: str, suffix: str) -> Path:
    """Put a file that was made in the folder's file system under a key."""
    made.chmod(0o700)  # a compiler leaves what the umask allows
    kept = folder / f"{key}-{sha256_file(made)}{suffix}"
    made.replace(kept)
    return kept
