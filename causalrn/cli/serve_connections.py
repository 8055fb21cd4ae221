"""The open connections of a server: so many at most, and none that keeps it waiting."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass

_ROOM_S = 1.0
"""How long a dropped connection's thread may take to end."""


@dataclass
class _Use:
    deadline: float
    is_answered: bool = False


class Connections:
    """Connections, each with a time by which its request, or the end of its answer, is due.

    Args:
        most: how many there may be; a further one takes the place of the one that has waited longest.
        wait_s: for a whole request, from the connection's beginning or the end of the answer before.
        answer_s: for taking an answer.
    """

    def __init__(self, most: int, wait_s: float, answer_s: float) -> None:
        self.most, self.wait_s, self.answer_s = most, wait_s, answer_s
        self._uses: dict[socket.socket, _Use] = {}
        self._changed = threading.Condition()

    def add(self, connection: socket.socket) -> bool:
        """Take a new connection; False where there is no room, although one was dropped for it."""
        with self._changed:
            if len(self._uses) >= self.most:
                _drop(min(self._uses, key=self._precedence))
                self._changed.wait_for(lambda: len(self._uses) < self.most, _ROOM_S)
            if len(self._uses) >= self.most:
                return False
            self._uses[connection] = _Use(time.monotonic() + self.wait_s)
            return True

    def _precedence(self, connection: socket.socket) -> tuple[bool, float]:
        """What is being answered goes last."""
        use = self._uses[connection]
        return use.is_answered, use.deadline

    def note(self, connection: socket.socket, *, is_answered: bool) -> None:
        """A request is awaited, or answered, from now on."""
        with self._changed:
            if connection in self._uses:
                seconds = self.answer_s if is_answered else self.wait_s
                self._uses[connection] = _Use(time.monotonic() + seconds, is_answered)

    def remove(self, connection: socket.socket) -> None:
        """Forget one that has been closed."""
        with self._changed:
            self._uses.pop(connection, None)
            self._changed.notify_all()

    def drop_late(self) -> None:
        """Drop those that are past their time: their threads then end."""
        now = time.monotonic()
        with self._changed:
            for connection, use in self._uses.items():
                if now > use.deadline:
                    _drop(connection)


def _drop(connection: socket.socket) -> None:
    """End what a thread waits for."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
