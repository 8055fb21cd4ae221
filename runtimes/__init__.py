"""Running models behind one `Session` interface, and comparing what they say. One file per runtime."""

from causalrn.runtimes.opening import RUNTIMES, SessionOptions, open_session
from causalrn.runtimes.session import Session, Snapshot

__all__ = ["RUNTIMES", "Session", "SessionOptions", "Snapshot", "open_session"]
