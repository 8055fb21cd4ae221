"""Running models behind one `Session` interface, and comparing their outputs. One file or folder per runtime."""

from causalrn.runtimes.opening import open_session
from causalrn.runtimes.session import Session
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Snapshot

__all__ = ["Session", "SessionOptions", "Snapshot", "open_session"]
