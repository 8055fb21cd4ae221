"""What the system says: memory of this process and its children, as Linux counts it, and the machine's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def resident_bytes() -> int | None:
    """Memory that is in use now; None where the system does not say."""
    return _total(r"^Rss:\s+(\d+) kB", "smaps_rollup")


def peak_bytes() -> int | None:
    """The most that was in use since :func:`forget_peak`, or since the start; None where the system does not say."""
    return _total(r"^VmHWM:\s+(\d+) kB", "status")


def forget_peak() -> None:
    """Let the peak begin anew, where the system can do that (proc(5), "clear_refs")."""
    for folder in _processes():
        with contextlib.suppress(OSError):
            (folder / "clear_refs").write_text("5")


def installed_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _processes() -> Iterator[Path]:
    """Folders of this process and of those that it started."""
    yield _PROC / "self"
    for children in (_PROC / "self" / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from (_PROC / number for number in children.read_text().split())


def _total(pattern: str, name: str) -> int | None:
    found: list[int] = []
    for folder in _processes():
        try:
            entry = re.search(pattern, (folder / name).read_text(), re.MULTILINE)
        except OSError:
            entry = None
        if entry is None and not found:
            return None
        found.append(int(entry[1]) * 1024 if entry is not None else 0)
    return sum(found)
