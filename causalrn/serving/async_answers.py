"""Events of the engine's thread, in the event loop: one wake-up per step, whatever number of requests it concerns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from causalrn.serving.engine import Engine
from causalrn.serving.requests import Event, Failed, Finished, Request, Token


class Channel:
    """Events of requests that are answered together.

    Attributes:
        places: of the requests in their order, by number of the engine.
        left: choices of each that have not ended; requests without are not there.
    """

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.left: dict[int, int] = {}
        self._events: list[Event] = []
        self._ready = asyncio.Event()

    def put(self, event: Event) -> None:
        """Called in the event loop."""
        self._events.append(event)
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[list[Token | Finished]]:
        """What has come since the last time, until all requests have ended.

        Raises:
            CausalRNError: a request has failed.
        """
        while self.left:
            await self._ready.wait()
            self._ready.clear()
            events, self._events = self._events, []
            came: list[Token | Finished] = []
            for event in events:
                if isinstance(event, Failed):
                    del self.left[event.request]
                    yield came  # what was there before it failed
                    raise event.error
                if isinstance(event, Finished):
                    self._note_end(event)
                came.append(event)
            yield came

    def _note_end(self, event: Finished) -> None:
        self.left[event.request] -= 1
        if not self.left[event.request]:
            del self.left[event.request]


class AsyncAnswers:
    """Submits requests of an event loop to an engine.

    Args:
        engine: that runs them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[int, Channel] = {}

    @contextlib.asynccontextmanager
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
                channel.places[number] = len(channel.places)
                channel.left[number] = request.choices
                self._channels[number] = channel
            yield channel
        finally:
            for number in channel.left:
                self._engine.cancel(number)
            for number in channel.places:
                self._channels.pop(number, None)

    def _sink(self, events: list[Event]) -> None:
        """Called in the engine's thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            channel = self._channels.get(event.request)
            if channel is not None:
                channel.put(event)
