"""What the processor is called. Needs nothing."""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path


def processor_name() -> str:
    """As Linux gives it; elsewhere what Python knows."""
    with contextlib.suppress(OSError):
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        entry = re.search(r"^model name\s*:\s*(.+)$", content, re.MULTILINE)
        if entry is not None:
            return entry[1].strip()
    return platform.processor() or platform.machine()
