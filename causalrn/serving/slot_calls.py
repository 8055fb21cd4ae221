"""One call of many slots, in which one sequence's failure is no other's."""

from __future__ import annotations

from collections.abc import Mapping

from causalrn.errors import CausalRNError
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import FloatArray, IntArray


def take_tokens(slots: Slots, calls: Mapping[int, IntArray]) -> tuple[dict[int, FloatArray], dict[int, CausalRNError]]:
    """Take tokens [T] in each of some slots: the last logits [V] by slot, and the errors of those that failed.

    A call that fails has changed nothing; then slots go one by one.
    """
    if not calls:
        return {}, {}
    try:
        return _call(slots, calls), {}
    except CausalRNError as error:
        if len(calls) == 1:
            return {}, dict.fromkeys(calls, error)
    given: dict[int, FloatArray] = {}
    failed: dict[int, CausalRNError] = {}
    for slot, tokens in calls.items():
        logits, errors = take_tokens(slots, {slot: tokens})
        given |= logits
        failed |= errors
    return given, failed


def _call(slots: Slots, calls: Mapping[int, IntArray]) -> dict[int, FloatArray]:
    if all(len(tokens) == 1 for tokens in calls.values()):
        return slots.step({slot: int(tokens[0]) for slot, tokens in calls.items()})
    return {slot: rows[-1] for slot, rows in slots.prefill(calls).items()}
