"""Events of the engine's thread, in the event loop: one wake-up per step, whatever number of requests it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from causalrn.serving.engine import Engine
from causalrn.serving.requests import Event, Failed, Finished, Request


class Channel:
    """Events of the requests of one HTTP request, in the order of their numbers.

    Attributes:
        numbers: of the engine, in the order of the requests.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.left: dict[int, int] = {}
        self._events: list[Event] = []
        self._ready = asyncio.Event()

    def put(self, event: Event) -> None:
        """Called in the event loop."""
        self._events.append(event)
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        """What has come since the last time, until all requests have ended."""
        while self.left:
            await self._ready.wait()
            self._ready.clear()
            events, self._events = self._events, []
            for event in events:
                if isinstance(event, Finished):
                    self.left[event.request] -= 1
                if isinstance(event, Failed) or not self.left[event.request]:
                    del self.left[event.request]
            yield events


class AsyncAnswers:
    """Submits requests of an event loop to an engine.

    Args:
        engine: that runs them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[int, Channel] = {}

    @asynccontextmanager
    async def channel(self, requests: Sequence[Request]) -> AsyncIterator[Channel]:
        """All requests, or none; those that have not ended when the block does are cancelled.

        Raises:
            CausalRNError: as :meth:`Engine.submit`.
        """
        self._loop = asyncio.get_running_loop()
        channel = Channel()
        try:
            for request in requests:
                number = self._engine.submit(request, self._sink)
                channel.numbers.append(number)
                channel.left[number] = request.choices
                self._channels[number] = channel
            yield channel
        finally:
            for number in channel.left:
                self._engine.cancel(number)
            for number in channel.numbers:
                self._channels.pop(number, None)

    def _sink(self, events: list[Event]) -> None:
        """Called in the engine's thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            channel = self._channels.get(event.request)
            if channel is not None:
                channel.put(event)
