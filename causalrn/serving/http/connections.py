"""Connections that keep nobody waiting: heads that do not come, answers that are not taken, too many of them."""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from causalrn.serving.http.settings import ServerSettings

_MOST_WAITING = 16
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'\r\n{"error":{"message":"too many connections: try again later","type":"server_error","param":null,'
    b'"code":"too_many_connections"}}'
)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with deadlines where it has none: a subclass names the settings.

    A connection has `head_s` for each request's head, `idle_s` between requests, and `stuck_s` to take something of an
    answer. Where there are too many, the one that has waited longest without a request is closed for a new one.
    """

    settings: ServerSettings
    _timer: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _reads_head = True
    """Whether what comes is a head's; the one before may still be answered."""
    _since = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether there is no request to answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for a new connection, or refuse it."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > self.settings.connections:
            others = [c for c in self.connections if c is not self and isinstance(c, LimitedProtocol) and c.is_waiting]
            if not others:
                transport.write(_TOO_MANY)
                transport.close()
                return
            oldest = min(others, key=lambda connection: connection._since)
            self.connections.discard(oldest)
            oldest.transport.abort()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        for timer in (self._timer, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is whole."""
        if self.is_waiting or self._reads_head:
            self._head_bytes += len(data)
        if self.is_waiting and self._timer is None:
            self._await_head()
        super().data_received(data)
        if (self.is_waiting or self._reads_head) and self._head_bytes > self.settings.head_bytes:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """A head is whole: its request is answered, after those before it.

        Raises:
            ValueError: too many of them wait; the parser ends then.
        """
        if len(self.pipeline) >= _MOST_WAITING:
            self.transport.abort()
            raise ValueError("too many requests that do not wait for their answer")
        self._end_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is whole: the next head follows."""
        self._reads_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The connection is closed when no request follows for `idle_s`."""
        super().on_response_complete()
        self._since = time.monotonic()
        if self.transport.is_closing():
            self._end_stuck()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing followed; an answer that has not been taken keeps the connection open no longer than any other."""
        super().timeout_keep_alive_handler()
        self._end_stuck()

    def pause_writing(self) -> None:
        """The client takes nothing: for so long at most."""
        super().pause_writing()
        self._end_stuck()

    def resume_writing(self) -> None:
        """It takes something again."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def _end_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        self._stuck = self.loop.call_later(self.settings.stuck_s, self.transport.abort)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.settings.head_s, self.transport.abort)

    def _end_waiting(self) -> None:
        self._head_bytes, self._reads_head = 0, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
