"""The engine's events in an event loop, by an engine that says what a test has it say."""

import asyncio
import threading

import pytest

from causalrn.errors import NonFiniteError
from causalrn.serving import Event, Failed, Finished, Request, Token
from causalrn.serving.async_answers import AsyncAnswers
from causalrn.serving.engine import Sink


class ToldEngine:
    """Gives every request the same events, each from another thread."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.cancelled: list[int] = []
        self.sinks: list[Sink] = []

    def submit(self, request: Request, sink: Sink) -> int:
        self.sinks.append(sink)
        threading.Thread(target=sink, args=(self.events,)).start()
        return 7

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)


async def heard(engine, got: list[Event], most: int = 99) -> None:
    async with AsyncAnswers(engine).channel([Request()]) as channel:
        async for events in channel:
            got += events
            if len(got) >= most:
                return


def test_what_came_before_a_failure_is_heard() -> None:
    engine = ToldEngine([Token(7, 0, 5), Failed(7, NonFiniteError("NaN")), Token(8, 0, 5)])
    got: list[Event] = []
    with pytest.raises(NonFiniteError, match="NaN"):
        asyncio.run(heard(engine, got))
    assert got == [Token(7, 0, 5)]
    assert engine.cancelled == []


def test_channel_ends_with_its_requests() -> None:
    events = [Token(7, 0, 5), Finished(7, 0, "length")]
    engine = ToldEngine(events)
    got: list[Event] = []
    asyncio.run(heard(engine, got))
    assert got == events
    assert engine.cancelled == []


def test_what_is_left_early_is_cancelled() -> None:
    engine = ToldEngine([Token(7, 0, 5)])
    got: list[Event] = []
    asyncio.run(heard(engine, got, most=1))
    assert engine.cancelled == [7]


def test_events_after_the_loops_end_harm_nobody() -> None:
    engine = ToldEngine([Finished(7, 0, "length")])
    got: list[Event] = []
    asyncio.run(heard(engine, got))
    engine.sinks[0]([Token(7, 0, 5)])  # as the engine's thread would: it must not raise there
