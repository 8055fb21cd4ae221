"""Memory of this process and its children, memory and processors of the machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

_T = TypeVar("_T")
_PROC = Path("/proc")


def resident_bytes() -> int:
    """Memory that this process and its children use now.

    On Linux the figure that psutil reads (statm) is late by up to a megabyte: after touching 4 MB it grew by 3. There
    the sum over the mappings is read instead, which is right to the page.
    """
    return sum(_known(lambda process: _proc_bytes(process, "smaps_rollup", "Rss") or process.memory_info().rss))


def peak_bytes() -> int | None:
    """The most memory in use since :func:`forget_peak`, or since the start; None where the system does not keep it.

    psutil has no peak that begins anew, so this is Linux's own.
    """
    found = _known(lambda process: _proc_bytes(process, "status", "VmHWM"))
    return sum(peak or 0 for peak in found) if found and found[0] is not None else None


def forget_peak() -> None:
    """Let the peak begin anew, where the system can do that (proc(5), "clear_refs")."""
    for process in _processes():
        with contextlib.suppress(OSError):
            (_PROC / str(process.pid) / "clear_refs").write_text("5")


def installed_bytes() -> int:
    """Memory of the machine."""
    return psutil.virtual_memory().total


def _processes() -> Iterator[psutil.Process]:
    """This process and those that it started."""
    own = psutil.Process()
    yield own
    yield from own.children(recursive=True)


def _known(figure: Callable[[psutil.Process], _T]) -> list[_T]:
    """A figure of every process; those that end meanwhile are left out."""
    found = []
    for process in _processes():
        with contextlib.suppress(psutil.Error):
            found.append(figure(process))
    return found


def _proc_bytes(process: psutil.Process, name: str, entry: str) -> int | None:
    """An entry in kB of a process's file below /proc; None where there is none."""
    try:
        found = re.search(rf"^{entry}:\s+(\d+) kB", (_PROC / str(process.pid) / name).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found is not None else None
