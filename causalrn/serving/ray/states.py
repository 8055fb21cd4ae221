"""Where states of sessions are between requests: outside of replicas, which may go at any time."""

from __future__ import annotations

from dataclasses import dataclass

from causalrn.runtimes.snapshot import Snapshot
from causalrn.serving.session_store import UnknownSessionError


@dataclass
class _Entry:
    """A session: after its last request, and before it, for a request that has to be run again."""

    version: int = 0
    request: str = ""
    state: Snapshot | None = None
    before: Snapshot | None = None


class StateStore:
    """Snapshots by session; one process holds them all.

    Args:
        most: sessions; the one that was not used for longest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[str, _Entry] = {}

    def begin(self, session: str, request: str, known: int) -> tuple[int, Snapshot | None]:
        """The version and state that a request goes on from; no state where the caller knows the version.

        A request that comes again, because a replica died with its answer, goes on from where it did the first time.

        Args:
            known: version that the caller has the state of; -1 for none.
        """
        entry = self._entries.pop(session, None) or _Entry()
        self._entries[session] = entry
        while len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]
        if request == entry.request:
            return entry.version - 1, entry.before
        return entry.version, None if known == entry.version else entry.state

    def end(self, session: str, request: str, version: int, state: Snapshot) -> None:
        """Keep the state after a request that began at `version`.

        Raises:
            UnknownSessionError: another request was quicker, or the session is gone.
        """
        entry = self._entries.get(session)
        if entry is None:
            raise UnknownSessionError("the session is gone: begin anew")
        if entry.request == request:
            return
        if entry.version != version:
            raise UnknownSessionError("another request of this session was quicker: send one after the other")
        entry.before, entry.state = entry.state, state
        entry.version, entry.request = version + 1, request

    def delete(self, session: str) -> None:
        """Forget a session."""
        self._entries.pop(session, None)
