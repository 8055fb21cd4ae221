"""Many requests on one model: continuous batching, stateful sessions, and a server.

The interface, from below to above, for whoever puts another door in front of it:

- `Request`, `Limits` and the events `Token`, `Finished`, `Failed` (:mod:`causalrn.serving.requests`): what goes in and
  comes out. A request has token ids and, to go on from, a `Snapshot`; with `keeps_state` its last event brings the next
  one. `options` None takes tokens and generates none. Draws depend on seed, row and position alone.
- `Scheduler(session, limits)` (:mod:`causalrn.serving.scheduler`): `submit(request)`, `cancel(number)`, and
  `advance(now)`, which takes one batched step and gives its events. Synchronous and deterministic.
- `Engine(session, limits)` (:mod:`causalrn.serving.engine`): a scheduler in a thread of its own.
  `answer(request)` gives an iterator of events, for threads that wait; `submit(request, sink)` calls `sink(events)`
  once per step, for event loops. `drain(timeout_s)`, `close()`, `statistics()`.

Refused requests raise `QueueFullError` (try later), `InputError` (never), `ServerClosedError` (ask another one).

Example:
    >>> engine = Engine(open_session("bundle"), Limits(max_slots=64))  # doctest: +SKIP
    >>> options = GenerationOptions(max_new_tokens=16, temperature=1.0, seed=7)
    >>> first = engine.answer(Request(tokens=(0, 3, 4, 1), options=options, keeps_state=True))
    >>> *tokens, end = first
    >>> more = engine.answer(Request(options=options, state=end.state, keeps_state=True))  # goes on bit for bit
"""

from causalrn.serving.engine import Answer, Engine, Statistics
from causalrn.serving.requests import Event, Failed, Finished, Limits, Logprobs, Request, Token, stop_sequences
from causalrn.serving.scheduler import Scheduler

__all__ = [
    "Answer",
    "Engine",
    "Event",
    "Failed",
    "Finished",
    "Limits",
    "Logprobs",
    "Request",
    "Scheduler",
    "Statistics",
    "Token",
    "stop_sequences",
]
