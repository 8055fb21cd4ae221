"""Running models behind one `Session` interface, and comparing their outputs. One file or folder per runtime."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalrn.runtimes.opening import open_session
    from causalrn.runtimes.session import Session
    from causalrn.runtimes.session_options import SessionOptions
    from causalrn.runtimes.snapshot import Snapshot

__all__ = ["Session", "SessionOptions", "Snapshot", "open_session"]

_LAZY = {
    "Session": "causalrn.runtimes.session",
    "SessionOptions": "causalrn.runtimes.session_options",
    "Snapshot": "causalrn.runtimes.snapshot",
    "open_session": "causalrn.runtimes.opening",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: `doctor` uses this package where numpy is missing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'causalrn.runtimes' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
