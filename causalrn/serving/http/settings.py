"""What the server is told: where it listens, who may ask, and how much."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from causalrn.bundle.disk.reading import read_input
from causalrn.errors import InputError
from causalrn.serving.requests import Limits
from causalrn.serving.session_store import StoreLimits, owner_name

KEYS_VARIABLE = "CAUSALRN_API_KEYS"
_LEAST_KEY = 16
_MOST_KEYS_BYTES = 1 << 20
LOOPBACK = "127.0.0.1"


class ApiKeys:
    """Keys that clients may show; only their hashes are kept.

    Args:
        keys: none leaves the server open.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._owners = {hashlib.sha256(key.encode()).digest(): owner_name(key) for key in keys}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._owners)

    def owner(self, key: str) -> str | None:
        """Whose key it is; None where it is nobody's. The time that this takes says nothing of other keys."""
        return self._owners.get(hashlib.sha256(key.encode(errors="surrogateescape")).digest())


@dataclass(frozen=True)
class ServerSettings:
    """Everything that is not in a bundle.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        keys: that clients may show.
        limits: of every model's scheduler.
        store: of every model's sessions.
        state_dir: where sessions are kept beyond the end of the server; None for a temporary folder.
        deadline_s: for a whole request, from its last byte on.
        body_bytes: most of a request's body, uploads of states aside; `body_s` for all of it to come.
        head_s: for a request's head to come; head_bytes: most of it.
        stuck_s: for a client to take something of an answer.
        idle_s: for which a connection without request stays open.
        connections: most of them; a further one takes the place of the idle one that has waited longest.
        choices: most answers of one request.
        drain_s: for running requests to end after SIGTERM.
    """

    host: str = LOOPBACK
    port: int = 8000
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    store: StoreLimits = field(default_factory=StoreLimits)
    state_dir: Path | None = None
    deadline_s: float = 120.0
    body_bytes: int = 1 << 20
    body_s: float = 10.0
    head_s: float = 10.0
    head_bytes: int = 32 << 10
    stuck_s: float = 30.0
    idle_s: float = 30.0
    connections: int = 1024
    choices: int = 32
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not len(self.keys):
            raise InputError(
                f"`host` {self.host} can be reached from elsewhere: give API keys (`keys`, or {KEYS_VARIABLE}), "
                f"or listen on {LOOPBACK}"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path | None) -> ApiKeys:
    """API keys from a file, one a line, or from the environment variable CAUSALRN_API_KEYS, with blanks between.

    Raises:
        InputError: a file that cannot be read, or a key that is short or no plain text.
    """
    if path is None:
        return _checked(os.environ.get(KEYS_VARIABLE, "").split(), KEYS_VARIABLE)
    content = read_input(path, "name a file with an API key a line", most_bytes=_MOST_KEYS_BYTES)
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    keys = _checked([line for line in lines if line and not line.startswith("#")], str(path))
    if not len(keys):
        raise InputError(f"{path}: there is no API key in it: write one a line")
    return keys


def _checked(keys: list[str], source: str) -> ApiKeys:
    for number, key in enumerate(keys, 1):
        if len(key) < _LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"{source}: key {number} is no {_LEAST_KEY} or more visible ASCII characters: "
                "make one with `openssl rand -hex 32`"
            )
    return ApiKeys(tuple(keys))
