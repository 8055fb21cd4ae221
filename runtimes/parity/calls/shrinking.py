"""The shortest walk that still fails: calls are left out and joined, then their numbers are made small."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from causalrn.runtimes.parity.calls.call import Call, Limits, fitting

Fails = Callable[[Sequence[Call]], bool]


def shrink(calls: Sequence[Call], limits: Limits, fails: Fails, deadline: float) -> list[Call]:
    """Shrink a failing walk until nothing simpler fails, or time is up.

    Args:
        calls: fail.
        limits: of the session.
        fails: makes calls on a fresh session.
        deadline: of `time.monotonic`.
    """
    known: dict[tuple[Call, ...], bool] = {}

    def still_fails(candidate: Sequence[Call]) -> bool:
        if time.monotonic() > deadline:
            return False
        fitted = tuple(fitting(candidate, limits))
        if not fitted:
            return False
        if fitted not in known:
            known[fitted] = fails(fitted)
        return known[fitted]

    best = fitting(calls, limits)
    before: list[Call] = []
    while best != before and time.monotonic() <= deadline:
        before = list(best)
        best = _leave_out(best, limits, still_fails)
        best = _simplify(best, limits, still_fails)
    return best


def _leave_out(calls: list[Call], limits: Limits, fails: Fails) -> list[Call]:
    """Leave out stretches of calls, long ones first."""
    size = len(calls) // 2
    while size >= 1:
        start = 0
        while start < len(calls):
            candidate = calls[:start] + calls[start + size :]
            if fails(candidate):
                calls = fitting(candidate, limits)
            else:
                start += size
        size //= 2
    return calls


def _simplify(calls: list[Call], limits: Limits, fails: Fails) -> list[Call]:
    """Join neighbours and make numbers small, as long as that helps."""
    index = 0
    while index < len(calls):
        for candidate in _simpler(calls, index):
            fitted = fitting(candidate, limits)
            if _weight(fitted) < _weight(calls) and fails(candidate):
                calls = fitted
                break
        else:
            index += 1
    return calls


def _simpler(calls: list[Call], index: int) -> Iterator[list[Call]]:
    """Walks with one call, or two neighbours, replaced by something simpler; the simplest first."""
    call, before, after = calls[index], calls[:index], calls[index + 1 :]
    run = _run_of_tokens(calls, index)
    for count in reversed([*_below(run + 1, least=2)] if run > 1 else []):
        total, rest = sum(_length(each) for each in calls[index : index + count]), calls[index + count :]
        yield [*before, Call("prefill", total), *rest]
        if total > 2:  # the same end, reached by a single step
            yield [*before, Call("prefill", total - 1), Call("step"), *rest]
    if run == 1 and len(after) > 1 and _length(after[1]):  # what stands between two that take tokens goes before both
        yield [*before, after[0], Call("prefill", _length(call) + _length(after[1])), *after[2:]]
    for simpler in _smaller(call):
        yield [*before, simpler, *after]


def _run_of_tokens(calls: list[Call], index: int) -> int:
    """How many calls from here on do nothing but take tokens."""
    run = 0
    while index + run < len(calls) and _length(calls[index + run]):
        run += 1
    return run


def _smaller(call: Call) -> Iterator[Call]:
    match call.kind:
        case "prefill":
            yield from (Call("prefill", count) for count in _below(call.count))
            if call.count == 1:
                yield Call("step")
        case "break off":
            yield Call("prefill", call.prompt)
            yield from (replace(call, prompt=count) for count in _below(call.prompt))
            yield from (replace(call, count=count) for count in _below(call.count + 1, least=0))
        case "generate":
            yield from (replace(call, count=count) for count in _below(call.count))
            yield from (replace(call, prompt=count) for count in _below(call.prompt + 1, least=0))
        case "reset":
            yield from (replace(call, rows=rows) for rows in _fewer_rows(call.rows))
        case "refuse":
            if call.what != "token":
                yield replace(call, what="token")


def _fewer_rows(rows: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Fewer sequences, then lower rows: all of the first, or each a lower one."""
    for count in _below(len(rows)):
        yield rows[:count]
    if len(rows) <= 8:
        yield from (rows[:index] + rows[index + 1 :] for index in range(len(rows)))
    yield (0,) * len(rows)
    for index, row in enumerate(rows[:8]):
        if row:
            yield (*rows[:index], 0, *rows[index + 1 :])


def _below(count: int, least: int = 1) -> Iterator[int]:
    """Smaller numbers: the least, then by halves of the way, then the next."""
    step = count - least
    while step >= 1:
        yield count - step
        step //= 2


def _length(call: Call) -> int:
    """Tokens that a call takes."""
    return 1 if call.kind == "step" else call.count if call.kind == "prefill" else 0


def _weight(calls: Sequence[Call]) -> tuple[int, int]:
    """How complicated a walk is: calls first, then their numbers."""
    numbers = 0
    for call in calls:
        numbers += 2 * call.count + 2 * call.prompt + 2 * len(call.rows) + sum(call.rows)
        numbers += (call.kind == "prefill") + (call.kind == "refuse" and call.what != "token")
    return len(calls), numbers
