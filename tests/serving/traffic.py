"""Requests for tests, and what each of them gets alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from causalrn.runtimes import Session
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.serving import Event, Failed, Finished, Request, Scheduler, Token


def random_request(seed: int, *, capacity: int = 40, choices: int = 1) -> Request:
    """A prompt of letters and settings that belong to a seed."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, capacity // 2))
    options = GenerationOptions(
        max_new_tokens=int(rng.integers(1, capacity)),
        temperature=float(rng.choice([0.0, 0.7, 1.5])),
        top_p=float(rng.choice([0.8, 1.0])),
        seed=seed,
    )
    return Request(tokens=tuple(rng.integers(3, 29, length).tolist()), options=options, choices=choices)


def lone_tokens(session: Session, request: Request, row: int = 0) -> list[int]:
    """What a request generates by itself, through `session.generate`; in a batch of equal rows, its row."""
    session.reset(row + 1)
    prompt = np.array([request.tokens] * (row + 1))
    steps = session.generate(prompt, request.options)
    return [int(step.tokens[row]) for step in steps if step.active[row]]


def run_all(scheduler: Scheduler, requests: Iterable[Request]) -> Mapping[int, list[Event]]:
    """Submit everything at once and run until all have ended: events by request."""
    numbers = [scheduler.submit(request) for request in requests]
    events: dict[int, list[Event]] = {number: [] for number in numbers}
    for _ in range(10_000):
        for event in scheduler.advance():
            events[event.request].append(event)
        if scheduler.is_idle:
            return events
    raise AssertionError("the scheduler does not come to an end")


def tokens_of(events: Iterable[Event], choice: int = 0) -> list[int]:
    """What a choice has generated."""
    return [event.token for event in events if isinstance(event, Token) and event.choice == choice]


def ends_of(events: Iterable[Event]) -> list[Finished | Failed]:
    return [event for event in events if not isinstance(event, Token)]


def parted(request: Request, first: int) -> tuple[Request, Request]:
    """A request's prompt in two parts: the first generates nothing and keeps its state."""
    head = dataclasses.replace(request, tokens=request.tokens[:first], options=None, keeps_state=True)
    return head, dataclasses.replace(request, tokens=request.tokens[first:])
