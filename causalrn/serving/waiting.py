"""Requests that wait for a slot. Clients take turns: who has least running goes first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

from causalrn.errors import QueueFullError
from causalrn.serving.requests import Limits, Request

_Numbered = tuple[int, Request]


class WaitingRequests:
    """A queue per client; any thread may call.

    Args:
        limits: how many requests may wait, of all clients and of one.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[str, deque[_Numbered]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def add(self, number: int, request: Request) -> None:
        """Have a request wait.

        Raises:
            QueueFullError: as many wait as may.
        """
        with self._lock:
            queue = self._queues.get(request.client, deque())
            if self._count >= self._limits.max_waiting:
                raise QueueFullError(f"{self._count} requests are waiting, as many as may: try again later")
            if len(queue) >= self._limits.max_waiting_per_client:
                raise QueueFullError(f"{len(queue)} requests of this client are waiting, as many as may: wait for them")
            queue.append((number, request))
            self._queues[request.client] = queue
            self._count += 1

    def first(self, running: Mapping[str, int]) -> _Numbered | None:
        """Whose turn it is: of the client with least running, and of those the one that has waited longest.

        Args:
            running: sequences that run now, by client.
        """
        with self._lock:
            heads = [queue[0] for queue in self._queues.values()]
        return min(heads, key=lambda head: (running.get(head[1].client, 0), head[0]), default=None)

    def remove(self, number: int, client: str) -> None:
        """Take a request out."""
        with self._lock:
            queue = self._queues[client]
            self._queues[client] = deque(entry for entry in queue if entry[0] != number)
            self._count -= len(queue) - len(self._queues[client])
            if not self._queues[client]:
                del self._queues[client]

    def late(self, now: float, cancelled: frozenset[int]) -> list[_Numbered]:
        """Take out what is past its deadline at `now`, or has been cancelled; gives it."""
        with self._lock:
            entries = [entry for queue in self._queues.values() for entry in queue]
        late = [(n, r) for n, r in entries if n in cancelled or (r.deadline is not None and now >= r.deadline)]
        for number, request in late:
            self.remove(number, request.client)
        return late
