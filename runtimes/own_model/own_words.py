"""Verdicts of parity/, worded for functions that somebody has written in place of a CausalRN's forms."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from causalrn.runtimes.parity.results import Attribution, LevelResult

STEP_WITH_ITSELF = (
    "the forms differ, so all other levels compare with the step in float64: they tell whether it is consistent, not "
    "whether it is right"
)
NO_NUMBERS = "as the step gives no numbers, nothing else was checked"

_MIXING = ("rows", "isolation", "determinism", "reload")  # levels that compare the step with itself


def in_own_words(attribution: Attribution, results: Sequence[LevelResult], chance: Sequence[str]) -> Attribution:
    """The same with a cause and a verdict that fit.

    Args:
        results: of all levels: they tell whether a step depends on what it should not.
        chance: modules that draw random numbers.
    """
    failed = {result.level for result in results if not result.passed}
    if chance:
        verdict = f"{', '.join(chance[:3])} draws random numbers, so no two runs give the same"
        return replace(attribution, cause="randomness", place=chance[0], verdict=verdict)
    if attribution.cause == "weights" and "reload" in failed:
        verdict = (
            "a copy of the model, made before it ran, computes something else: it makes something with its first call, "
            "or keeps it outside its parameters, buffers and state"
        )
        return replace(attribution, cause="state handling", verdict=verdict)
    if attribution.cause == "weights":
        return _of_parallel(attribution)
    if attribution.cause != "cell":
        return attribution
    place = attribution.verdict.partition(":")[0]
    if "in a prefill of" in place:
        verdict = f"{place}: from the same state it gives something else than steps do"
        return replace(attribution, cause="prefill", verdict=verdict)
    if failed.isdisjoint(_MIXING):
        verdict = f"{place}: the step loses precision or overflows in float32, and not in float64"
        return replace(attribution, cause="step", verdict=verdict)
    verdict = (
        f"{place}: from the same tokens and state it does not always give the same: it depends on the other rows of "
        "the batch, on what is kept outside the state, or on chance"
    )
    return replace(attribution, cause="step", verdict=verdict)


def _of_parallel(attribution: Attribution) -> Attribution:
    """Later positions spoil earlier ones there, so the first block that is wrong counts, not the first position."""
    first = next((side.first for side in attribution.sides if side.first is not None), None)
    words = "the parallel form loses precision or overflows in float32, and not in float64"
    remedy = "compute it in chunks, or in log space"
    if first is None or first.first_bad_step is None:
        return replace(attribution, cause="parallel form", verdict=f"{words}: {remedy}")
    return replace(
        attribution,
        cause="parallel form",
        step=first.first_bad_step,
        tensor=first.tensor,
        place=first.place,
        verdict=f"{words}, first in {first.place} from step {first.first_bad_step} on: {remedy}",
    )
