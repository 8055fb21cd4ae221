"""A thread that runs a scheduler: requests from any thread, events to whoever asked."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from causalrn.errors import ServerClosedError
from causalrn.runtimes.closing import Closing
from causalrn.runtimes.session import Session
from causalrn.serving.requests import Event, Failed, Finished, Limits, Request
from causalrn.serving.scheduler import Scheduler

Sink = Callable[[list[Event]], None]
"""Takes events, in the engine's thread: it has to be quick and must not raise. Events of one step come together."""


@dataclass(frozen=True)
class Statistics:
    """An engine at one moment.

    Attributes:
        running: sequences that run.
        waiting: requests without a slot.
        reserved_bytes: what running states can come to take.
        cache_bytes: what the prefix cache takes; its `cache_entries`, `cache_hits` and `cache_misses`.
        prompt_tokens, generated_tokens: how many so far.
    """

    running: int
    waiting: int
    reserved_bytes: int
    cache_bytes: int
    cache_entries: int
    cache_hits: int
    cache_misses: int
    prompt_tokens: int
    generated_tokens: int


class Engine(Closing):
    """Runs the requests of any number of threads on one session, whose it is from then on.

    Args:
        session: closed with the engine.
        limits: what may run and wait.

    Attributes:
        failure: what ended the engine before its time; None while it runs.

    Example:
        >>> with Engine(open_session("bundle")) as engine:  # doctest: +SKIP
        ...     answers = [engine.answer(request) for request in requests]  # all at once
        ...     for answer in answers:
        ...         print([event.token for event in answer if isinstance(event, Token)])
    """

    def __init__(self, session: Session, limits: Limits | None = None) -> None:
        self.session = session
        self.failure: BaseException | None = None
        self._scheduler = Scheduler(session, limits)
        self._sinks: dict[int, tuple[Sink, int]] = {}  # and choices that are still to end
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._has_work = self._ends = self._takes_none = False
        self._thread = threading.Thread(target=self._run, name="causalrn-engine", daemon=True)
        self._thread.start()

    @property
    def limits(self) -> Limits:
        """What may run and wait."""
        return self._scheduler.limits

    def submit(self, request: Request, sink: Sink) -> int:
        """Queue a request; its number, which its events carry.

        Args:
            sink: gets them, up to the last choice's :class:`Finished`, or to :class:`Failed`.

        Raises:
            InputError: a request that cannot run, CapacityError: for its length; QueueFullError: as many wait as may;
            ServerClosedError: the engine ends, or has failed.
        """
        with self._lock:
            if self._takes_none or self.failure is not None:
                raise ServerClosedError("the server takes no more requests: ask another one")
            number = self._scheduler.submit(request)
            self._sinks[number] = sink, request.choices
            self._wake()
        return number

    def answer(self, request: Request) -> Answer:
        """:meth:`submit` for one thread that waits: iterate over the events.

        Raises:
            As :meth:`submit`.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def put(step: list[Event]) -> None:
            for event in step:
                events.put(event)

        return Answer(self, self.submit(request, put), request.choices, events)

    def cancel(self, number: int) -> None:
        """End a request soon; one that has ended is no error."""
        with self._lock:
            if number in self._sinks:
                self._scheduler.cancel(number)
                self._wake()

    def statistics(self) -> Statistics:
        """How it is doing; the numbers are of one moment or the next step's."""
        scheduler, cache = self._scheduler, self._scheduler.cache
        return Statistics(
            running=scheduler.running,
            waiting=scheduler.waiting,
            reserved_bytes=scheduler.reserved_bytes,
            cache_bytes=cache.size_bytes,
            cache_entries=len(cache),
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            prompt_tokens=scheduler.prompt_tokens,
            generated_tokens=scheduler.generated_tokens,
        )

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more requests and wait for those that are there; whether all have ended in time."""
        with self._changed:
            self._takes_none = True
            return self._changed.wait_for(lambda: not self._sinks, timeout_s)

    def close(self) -> None:
        """End what runs, with a :class:`Failed` each, and close the session."""
        with self._changed:
            self._takes_none = self._ends = True
            self._changed.notify_all()
        self._thread.join()
        self.session.close()

    def _wake(self) -> None:
        self._has_work = True
        self._changed.notify_all()

    def _run(self) -> None:
        """The thread: step while there is something to step."""
        try:
            while self._wait():
                self._deliver(self._scheduler.advance(time.monotonic()))
            self._scheduler.close()
        except BaseException as error:  # no error of a request: memory, a defect
            self.failure = error
        with self._lock:
            self._takes_none = True
            left = list(self._sinks)
        reason = "the server has ended" if self.failure is None else f"the server has failed: {self.failure}"
        self._deliver([Failed(number, ServerClosedError(f"{reason}: ask another one")) for number in left])

    def _wait(self) -> bool:
        """Wait for work; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ends or self._has_work or not self._scheduler.is_idle)
            self._has_work = False
            return not self._ends

    def _deliver(self, events: list[Event]) -> None:
        """Give events to their sinks, those of one sink together, and forget requests that have ended."""
        together: dict[Sink, list[Event]] = {}
        with self._changed:
            for event in events:
                sink, choices = self._sinks[event.request]
                together.setdefault(sink, []).append(event)
                if isinstance(event, Failed | Finished):
                    left = choices - 1 if isinstance(event, Finished) else 0
                    self._sinks[event.request] = sink, left
                    if not left:
                        del self._sinks[event.request]
            if not self._sinks:
                self._changed.notify_all()
        for sink, step in together.items():
            sink(step)


class Answer(Iterator[Event]):
    """The events of one request, as they come; one thread iterates.

    Attributes:
        number: of the request.
    """

    def __init__(self, engine: Engine, number: int, choices: int, events: queue.SimpleQueue[Event]) -> None:
        self.number = number
        self._engine, self._left, self._events = engine, choices, events

    def __next__(self) -> Event:
        """Wait for the next event.

        Raises:
            CausalRNError: the request has failed.
        """
        if self._left == 0:
            raise StopIteration
        event = self._events.get()
        if isinstance(event, Failed):
            self._left = 0
            raise event.error
        if isinstance(event, Finished):
            self._left -= 1
        return event

    def cancel(self) -> None:
        """End the request; its choices finish as "cancelled"."""
        self._engine.cancel(self.number)
