"""Walks: sequences of calls that pass every edge on purpose, and random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from causalrn.runtimes.parity.calls.call import Call, Course, Limits, Refusal
from causalrn.runtimes.parity.calls.table import call_edges

_BATCHES = (2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65)
_EVERY_LENGTH = 130
_SHORT = (1, 2, 3, 4)
_LONGER = (5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33)
_REFUSALS: tuple[Refusal, ...] = (
    "capacity",
    "token",
    "negative",
    "rows",
    "dtype",
    "reset",
    "foreign state",
    "no file",
)
_RANDOM_CALLS = 24
_SLOTS = 3


def edge_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """Walks that pass every edge, what costs least for what it finds first."""
    yield [_reset((0,)), _prefill(limits.steps), Call("state")]
    yield from _state_walks(limits, rng)
    yield from _batch_walks(limits, rng)
    yield from _chunk_walks(limits, _SHORT[:1])
    yield from _walks_to_edges(limits)
    yield from _refusing_walks(limits, rng)
    yield from _generating_walks(limits, rng)
    yield from _chunk_walks(limits, _SHORT[1:])
    if limits.steps <= _EVERY_LENGTH:
        yield from ([_reset((count % limits.table_rows,)), _prefill(count), Call("step")] for count in _lengths(limits))
    yield from _chunk_walks(limits, _LONGER)


def thread_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """A few walks for sessions with more threads: short and long rows, by steps and prefill, several sequences."""
    for rows in ((0,), _rows(limits, 2, rng)):
        yield [_reset(rows), _prefill(min(5, limits.steps - 1)), Call("step"), Call("state")]
        for edge in call_edges(limits.steps)[-7:]:
            yield [_reset(rows), _prefill(max(1, edge - 1)), Call("step"), Call("step"), _prefill(2), Call("state")]
    yield [_reset((1 % limits.table_rows,)), _prefill(limits.steps), Call("state")]


def random_walk(limits: Limits, rng: np.random.Generator) -> list[Call]:
    """Calls at random, from a fresh state: most of them take tokens, so that walks get somewhere."""
    course, calls = Course(limits), []
    edges = call_edges(limits.steps)
    for call in [_reset(_rows(limits, _random_batch(limits, rng), rng)), *[None] * int(rng.integers(4, _RANDOM_CALLS))]:
        chosen = call or _random_call(course, rng, edges)
        if course.fits(chosen):
            course.take(chosen)
            calls.append(chosen)
    if course.room:
        calls.append(Call("step"))
    return [*calls, Call("state")]


def _random_batch(limits: Limits, rng: np.random.Generator) -> int:
    few = [size for size in (1, 1, 1, 1, *_BATCHES) if size <= limits.batch]
    return int(rng.choice(few))


def _random_call(course: Course, rng: np.random.Generator, edges: Sequence[int]) -> Call:
    kind = rng.choice(
        ["step", "prefill", "snapshot", "restore", "save", "load", "refuse", "break off", "generate", "reset", "state"],
        p=[0.26, 0.28, 0.09, 0.11, 0.04, 0.05, 0.05, 0.03, 0.03, 0.04, 0.02],
    )
    slot, room = int(rng.integers(_SLOTS)), course.room
    match kind:
        case "step":
            return Call("step")
        case "prefill":
            return _prefill(_random_length(course, rng, edges))
        case "reset":
            same = rng.random() < 0.5
            size = len(course.rows) if same else _random_batch(course.limits, rng)
            return _reset(_rows(course.limits, size, rng))
        case "refuse":
            return Call("refuse", what=_REFUSALS[int(rng.integers(len(_REFUSALS)))])
        case "break off":
            return Call("break off", int(rng.integers(3)), prompt=int(rng.integers(2, max(3, room + 1))))
        case "generate":
            return Call("generate", int(rng.integers(1, 6)), prompt=int(rng.integers(0, 4)))
        case "snapshot" | "save" | "restore" | "load" as kept:
            return Call(kept, slot)
    return Call("state")


def _random_length(course: Course, rng: np.random.Generator, edges: Sequence[int]) -> int:
    """Short, to an edge, or anything that fits."""
    room, ahead = max(1, course.room), [edge - course.position for edge in edges if edge > course.position]
    way = rng.random()
    if way < 0.4 or not ahead:
        return int(rng.integers(1, min(room, 6) + 1))
    return int(rng.choice(ahead)) if way < 0.7 else int(rng.integers(1, room + 1))


def _state_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """What is kept and put back: at the same position, an earlier one and zero, by snapshot and by file."""
    half = max(1, min(9, limits.steps // 3))
    for size in (1, 2, 7):
        if size > limits.batch:
            continue
        first, second, third = (_rows(limits, size, rng) for _ in range(3))
        other = _rows(limits, 1 if size > 1 else min(3, limits.batch), rng)
        begin = [_reset(first), Call("snapshot", 0), Call("save", 0), _prefill(half), Call("snapshot", 1)]
        onward = [Call("save", 1), Call("step"), Call("step"), Call("snapshot", 2)]
        for kept in ("restore", "load"):
            back, zero = Call(kept, 1), Call(kept, 0)
            yield [*begin, *onward, back, Call("step"), Call("state"), back, back, _prefill(2), Call("state")]
            yield [*begin, *onward, _reset(second), _prefill(half), back, Call("step"), Call("state")]
            yield [*begin, *onward, _reset(other), _prefill(half), back, Call("step"), Call("state")]
            yield [*begin, *onward, zero, Call("step"), Call("step"), zero, _prefill(half), Call("step"), Call("state")]
            yield [*begin, *onward, _reset(other), zero, _prefill(half), Call("step"), back, Call("step")]
        yield [*begin, *onward, Call("restore", 1), Call("step"), Call("restore", 2), Call("step"), Call("state")]
        again = [_prefill(half), Call("step"), Call("state")]
        yield [_reset(first), _prefill(2 * half), _reset(first), *again, _reset(second), *again, _reset(third), *again]
        yield [_reset(other), *again, _reset(first), Call("step"), Call("step"), *again, _reset(other), *again]


def _batch_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """Every size, by prefill and by steps; many sequences short, few of them long."""
    length = max(1, min(5, limits.steps // 4))
    for size in _BATCHES:
        if size <= limits.batch:
            rows = _rows(limits, size, rng)
            back = [Call("restore", 0), Call("step"), Call("step"), Call("state")]
            yield [_reset(rows), Call("step"), _prefill(length), Call("snapshot", 0), Call("step"), *back, _prefill(3)]
    for size in (2, 5):
        if size <= limits.batch:
            rows = _rows(limits, size, rng)
            yield [_reset(rows), *[_prefill(max(1, limits.steps // 5))] * 4, Call("step"), Call("state")]


def _chunk_walks(limits: Limits, lengths: Sequence[int]) -> Iterator[list[Call]]:
    """Equal chunks from every offset on: a prefill of each of these lengths at every position."""
    for length in lengths:
        for offset in range(min(length, limits.steps)):
            row = (length + offset) % limits.table_rows
            first = [_prefill(offset)] if offset else []
            chunk = Call("step") if length == 1 else _prefill(length)
            rest = limits.steps - offset
            last = [_prefill(rest % length)] if rest % length else []
            yield [_reset((row,)), *first, *[chunk] * (rest // length), *last, Call("state")]


def _walks_to_edges(limits: Limits) -> Iterator[list[Call]]:
    """To every edge at once and in two, and on from there."""
    for number, edge in enumerate(reversed(call_edges(limits.steps))):
        row, on = _reset((number % limits.table_rows,)), [Call("step"), Call("step"), _prefill(2), Call("state")]
        yield [row, _prefill(edge), Call("refuse", what="capacity"), *on]
        part = max(1, (edge * (1 + number % 3)) // 4)
        if part < edge:
            yield [row, _prefill(part), _prefill(edge - part), Call("snapshot", 0), *on, Call("restore", 0), *on]


def _refusing_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """A call that fails, at zero, in the middle and at the end, and what comes after it."""
    long = max(2, min(40, limits.steps // 2))
    for rows in ((0,), _rows(limits, min(3, limits.batch), rng)):
        for what in _REFUSALS:
            failing = Call("refuse", what=what)
            yield [_reset(rows), failing, Call("step"), failing, Call("step"), _prefill(3), failing, _prefill(2)]
        for parts in (0, 1, 2):
            broken = Call("break off", parts, prompt=long)
            yield [_reset(rows), broken, Call("step"), broken, Call("step"), Call("state"), _prefill(3), Call("state")]
            yield [_reset(rows), _prefill(2), broken, _prefill(4), Call("step"), Call("state")]
    yield [_reset((0,)), _prefill(limits.steps), *[Call("refuse", what=what) for what in _REFUSALS], Call("state")]


def _generating_walks(limits: Limits, rng: np.random.Generator) -> Iterator[list[Call]]:
    """Generation from a prompt, from a state, up to the capacity; what follows must not notice."""
    for rows in ((0,), _rows(limits, min(3, limits.batch), rng)):
        start = max(1, min(4, limits.steps - 3))
        yield [_reset(rows), Call("generate", 5, prompt=start), _prefill(start), Call("generate", 4), Call("step")]
        end = [Call("generate", 6), Call("step"), Call("generate", 2), Call("state")]
        yield [_reset(rows), _prefill(max(1, limits.steps - 3)), Call("generate", 2, prompt=1), *end]


def _lengths(limits: Limits) -> range:
    return range(1, limits.steps + 1)


def _rows(limits: Limits, size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Rows for so many sequences: as distinct as there are, in no order."""
    some = [int(row) for _ in range(0, size, limits.table_rows) for row in rng.permutation(limits.table_rows)]
    return tuple(some[:size])


def _reset(rows: tuple[int, ...]) -> Call:
    return Call("reset", rows=rows)


def _prefill(count: int) -> Call:
    return Call("prefill", count)
