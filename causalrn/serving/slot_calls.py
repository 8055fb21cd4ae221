"""One call of many slots, in which one sequence's failure is no other's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from causalrn.errors import CausalRNError
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import FloatArray, IntArray


def take_tokens(slots: Slots, calls: Mapping[int, IntArray]) -> tuple[dict[int, FloatArray], dict[int, CausalRNError]]:
    """Take tokens [T] in each of some slots: the last logits [V] by slot, and the errors of those that failed."""

    def take(calls: Mapping[int, IntArray]) -> dict[int, FloatArray]:
        if all(len(tokens) == 1 for tokens in calls.values()):
            return slots.step({slot: int(tokens[0]) for slot, tokens in calls.items()})
        return {slot: rows[-1] for slot, rows in slots.prefill(calls).items()}

    return call_together(take, calls)


def call_together(
    take: Callable[[Mapping[int, IntArray]], dict[int, FloatArray]], calls: Mapping[int, IntArray]
) -> tuple[dict[int, FloatArray], dict[int, CausalRNError]]:
    """One call of tokens [T] by slot; where it fails, which has changed nothing, one for each slot.

    Returns:
        What `take` gives by slot, and the errors of those that failed.
    """
    if not calls:
        return {}, {}
    try:
        return take(calls), {}
    except CausalRNError as error:
        if len(calls) == 1:
            return {}, dict.fromkeys(calls, error)
    given: dict[int, FloatArray] = {}
    failed: dict[int, CausalRNError] = {}
    for slot, tokens in calls.items():
        logits, errors = call_together(take, {slot: tokens})
        given |= logits
        failed |= errors
    return given, failed
