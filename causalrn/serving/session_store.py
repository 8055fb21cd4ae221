"""Sequences that wait for their client: in memory, and on disk as state files where memory does not suffice."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from causalrn.errors import InputError, QueueFullError, StateError
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.serving.state_cost import snapshot_bytes

_ID = re.compile(r"[A-Za-z0-9_-]{32}\Z")
_SUFFIX = ".safetensors"


class UnknownSessionError(InputError):
    """No session of this name, or another client's."""


class BusySessionError(QueueFullError):
    """A session that another request is using."""


@dataclass(frozen=True)
class StoreLimits:
    """What sessions may take.

    Attributes:
        max_sessions: how many there may be, of all clients; `max_sessions_per_client` of one.
        memory_bytes: of states in memory; what has not been used longest is written to disk beyond it.
        disk_bytes: of state files; with memory and disk full nothing is added.
        idle_s: sessions that have not been used for so long are deleted.
    """

    max_sessions: int = 100_000
    max_sessions_per_client: int = 10_000
    memory_bytes: int = 256 << 20
    disk_bytes: int = 4 << 30
    idle_s: float = 3600.0


@dataclass
class _Entry:
    owner: str
    size: int
    state: Snapshot | None  # None while it is on disk
    used: float
    is_busy: bool = False


class SessionStore:
    """Sessions of one model, by id; any thread may call.

    Args:
        folder: where state files go, one folder per client; sessions that are there already go on. The caller has made
            it for this model alone, and nobody else may write to it.
        limits: what they may take.

    Attributes:
        memory_bytes, disk_bytes: what they take.
    """

    def __init__(self, folder: Path, limits: StoreLimits | None = None) -> None:
        self._folder, self._limits = folder, limits or StoreLimits()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # in order of use
        self._counts: dict[str, int] = {}
        self._lock = threading.RLock()
        self._fault = ""  # why nothing can be written to disk
        self.memory_bytes = self.disk_bytes = 0
        self._find_files()

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._entries)

    def create(self, owner: str, state: Snapshot) -> str:
        """Add a session; its id, which cannot be guessed.

        Args:
            owner: whose it is.

        Raises:
            QueueFullError: as many as may, or as much memory and disk as may, are taken.
        """
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._check_room(owner, snapshot_bytes(state))
            self._add(name, _Entry(owner, 0, None, time.time()))
            self._place(name, state)
        return name

    def read(self, owner: str, name: str) -> Snapshot:
        """A session's state; it stays where it is.

        Raises:
            UnknownSessionError: there is no such session; QueueFullError: its file cannot be read at the moment.
        """
        with self._lock:
            entry = self._entry(owner, name)
            return entry.state if entry.state is not None else self._load(name, entry)

    def take(self, owner: str, name: str) -> Snapshot:
        """A session's state, which no other request can take before :meth:`give_back`.

        Raises:
            UnknownSessionError: there is no such session; BusySessionError: another request has taken it;
            QueueFullError: its file cannot be read at the moment.
        """
        with self._lock:
            entry = self._entry(owner, name)
            if entry.is_busy:
                raise BusySessionError("another request uses this session: wait for its end")
            state = entry.state if entry.state is not None else self._load(name, entry)
            entry.is_busy = True
            return state

    def give_back(self, name: str) -> None:
        """End what :meth:`take` began, with the state that :meth:`replace` has given, or as it was.

        It waits for nobody, so that a server's event loop may call it while another session is written to disk.
        """
        entry = self._entries.get(name)
        if entry is not None:
            entry.is_busy = False

    def replace(self, owner: str, name: str, state: Snapshot) -> None:
        """Give a session that has been taken another state.

        Raises:
            UnknownSessionError: it has been deleted; QueueFullError: it grows, and memory and disk have no room for
                that. It is left as it was.
        """
        with self._lock:
            growth = snapshot_bytes(state) - self._entry(owner, name).size
            if growth > 0:
                self._check_bytes(growth)
            self._place(name, state)

    def delete(self, owner: str, name: str) -> None:
        """End a session; a request that uses it comes to its end.

        Raises:
            UnknownSessionError: there is no such session.
        """
        with self._lock:
            self._remove(name, self._entry(owner, name))

    def delete_idle(self, now: float | None = None) -> int:
        """Delete what has not been used for too long; how many."""
        oldest = (time.time() if now is None else now) - self._limits.idle_s
        with self._lock:
            idle = [(name, entry) for name, entry in self._entries.items() if entry.used < oldest and not entry.is_busy]
            for name, entry in idle:
                self._remove(name, entry)
        return len(idle)

    def write_all(self) -> None:
        """Write what is in memory to disk, so that another store goes on."""
        with self._lock:
            for name, entry in self._entries.items():
                if entry.state is not None:
                    self._write(name, entry)

    def _check_room(self, owner: str, size: int) -> None:
        limits = self._limits
        if len(self._entries) >= limits.max_sessions:
            raise QueueFullError(f"there are {len(self._entries):,} sessions, as many as may: try again later")
        if self._counts.get(owner, 0) >= limits.max_sessions_per_client:
            raise QueueFullError(f"this client has {self._counts[owner]:,} sessions, as many as may: delete some")
        self._check_bytes(size)

    def _check_bytes(self, size: int) -> None:
        """Refuse so many bytes more where there is no room for them."""
        limits = self._limits
        if self.memory_bytes + self.disk_bytes + size > limits.memory_bytes + limits.disk_bytes:
            raise QueueFullError("sessions take all memory and disk that they may: delete some, or try again later")
        if self._fault and self.memory_bytes + size > limits.memory_bytes:
            raise QueueFullError(
                f"sessions take all memory, and no file can be written ({self._fault}): try again later"
            )

    def _entry(self, owner: str, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None or entry.owner != owner:
            raise UnknownSessionError("no such session: it never was, has been deleted, or was idle for too long")
        entry.used = time.time()
        self._entries.move_to_end(name)  # it is never missing meanwhile: `give_back` takes no lock
        return entry

    def _add(self, name: str, entry: _Entry) -> None:
        self._entries[name] = entry
        self._counts[entry.owner] = self._counts.get(entry.owner, 0) + 1

    def _place(self, name: str, state: Snapshot) -> None:
        """Put a state into memory; what is on disk is of no use then."""
        entry = self._entries[name]
        self._forget(name, entry)
        entry.state, entry.size = state, snapshot_bytes(state)
        self.memory_bytes += entry.size
        try:
            self._write_oldest()
            self._fault = ""
        except OSError as error:  # what is there stays in memory, and nothing is added
            self._fault = error.strerror or str(error)

    def _write_oldest(self) -> None:
        """Move states to disk until the rest is no more than memory may have."""
        for name, entry in self._entries.items():  # least recently used first
            if self.memory_bytes <= self._limits.memory_bytes:
                return
            if entry.state is not None:
                self._write(name, entry)

    def _forget(self, name: str, entry: _Entry) -> None:
        """Free what an entry takes."""
        if entry.state is not None:
            self.memory_bytes -= entry.size
        elif entry.size:
            self._path(name, entry).unlink(missing_ok=True)  # first: what cannot be deleted is still there
            self.disk_bytes -= entry.size
        entry.state, entry.size = None, 0

    def _remove(self, name: str, entry: _Entry) -> None:
        self._forget(name, entry)
        del self._entries[name]
        self._counts[entry.owner] -= 1
        if not self._counts[entry.owner]:
            del self._counts[entry.owner]

    def _path(self, name: str, entry: _Entry) -> Path:
        return self._folder / entry.owner / (name + _SUFFIX)

    def _write(self, name: str, entry: _Entry) -> None:
        assert entry.state is not None
        path = self._path(name, entry)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        save_state(path, entry.state)
        self.memory_bytes -= entry.size
        entry.state, entry.size = None, path.stat().st_size
        self.disk_bytes += entry.size

    def _load(self, name: str, entry: _Entry) -> Snapshot:
        """Read a state back into memory."""
        try:
            state = load_state(self._path(name, entry))
        except (StateError, OSError) as error:
            fault = error if isinstance(error, OSError) else error.__context__
            if isinstance(fault, OSError) and not isinstance(fault, FileNotFoundError):  # e.g. too many open files
                raise QueueFullError(
                    f"the session's state file cannot be read now ({fault.strerror}): try again later"
                ) from None
            self._remove(name, entry)
            raise UnknownSessionError("the session's state file is gone or damaged: begin anew") from None
        self._place(name, state)
        return state

    def _find_files(self) -> None:
        files = [(path.stat(), path) for path in self._folder.glob(f"*/*{_SUFFIX}")]
        for status, path in sorted(files, key=lambda found: found[0].st_mtime):
            if _ID.match(path.stem):
                self._add(path.stem, _Entry(path.parent.name, status.st_size, None, status.st_mtime))
                self.disk_bytes += status.st_size


def owner_name(key: str) -> str:
    """What stands for a client in names of folders and in logs: part of a hash of its key."""
    return hashlib.sha256(b"causalrn client " + key.encode()).hexdigest()[:32]
