"""Slots and memory that running requests have reserved, each as much as it can come to need."""

from __future__ import annotations

from collections import Counter

from causalrn.serving.requests import Limits, Request


class Reservations:
    """What is taken of the limits.

    Attributes:
        by_client: sequences that run, by client.
        size_bytes: of all states.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests: dict[int, tuple[str, int, int]] = {}  # client, sequences, bytes
        self.by_client: Counter[str] = Counter()
        self.size_bytes = 0

    @property
    def sequences(self) -> int:
        """How many run; those that wait for the state of their prompt, too."""
        return self.by_client.total()

    def has_room(self, choices: int, needed: int) -> bool:
        """Whether so many sequences with so many bytes fit in beside the others."""
        return (
            self.sequences + choices <= self._limits.max_slots and self.size_bytes + needed <= self._limits.state_bytes
        )

    def add(self, number: int, request: Request, needed: int) -> None:
        """Reserve for a request."""
        self._requests[number] = request.client, request.choices, needed
        self.by_client[request.client] += request.choices
        self.size_bytes += needed

    def end(self, number: int) -> None:
        """Give back all that a request has reserved."""
        client, choices, needed = self._requests.pop(number)
        self.size_bytes -= needed
        self.by_client[client] -= choices
        if not self.by_client[client]:
            del self.by_client[client]
