"""Everything that the levels measure, as the entries of a report; each level fills in its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import UNSET, UnsetType

from causalrn.runtimes.parity.budgets import JudgedFigure
from causalrn.runtimes.parity.comparison import Agreement, Deviation
from causalrn.runtimes.parity.entries import Figure, ReportEntry
from causalrn.runtimes.task_accuracy import TaskAccuracy

Counts = tuple[int, int]
"""How many there were, and how many were right."""


class GrowthFigures(ReportEntry, frozen=True):
    """A law fitted to the error of a long run, relative to the largest |logit|.

    Attributes:
        name: how the error grows with the step number.
        start: the law's error at step 0.
        rate: per step; an exponent where it is exponential.
        horizon: the step to which the law is continued.
        predicted: the error there.
    """

    name: Literal["flat", "linear", "exponential"]
    start: float
    rate: float
    horizon: int
    predicted: Figure


class CurveFigures(ReportEntry, frozen=True):
    """The error along a long run by stretches, relative to the largest |logit|.

    Attributes:
        steps: where each stretch ends.
        median, largest: of the error in each.
        allowed: at the step with the largest error.
    """

    steps: tuple[int, ...]
    median: tuple[Figure, ...]
    largest: tuple[Figure, ...]
    allowed: tuple[Figure, ...]


class AccuracyFigures(ReportEntry, frozen=True):
    """How many answers came out right: :class:`~causalrn.runtimes.task_accuracy.TaskAccuracy`, with its shares.

    Attributes:
        accuracy, token_accuracy: shares of answers and of tokens that are right, 0 to 1.
    """

    unit: Literal["strings", "bytes"]
    counted: int
    right: int
    tokens: int
    tokens_right: int
    loss: Figure
    by_position: tuple[Counts, ...]
    by_length: Mapping[str, Counts]
    accuracy: float
    token_accuracy: float

    @classmethod
    def of(cls, accuracy: TaskAccuracy) -> AccuracyFigures:
        """The figures of a measured accuracy."""
        return cls(
            "strings" if accuracy.unit == "strings" else "bytes",
            accuracy.counted,
            accuracy.right,
            accuracy.tokens,
            accuracy.tokens_right,
            accuracy.loss,
            accuracy.by_position,
            {str(length): counts for length, counts in accuracy.by_length.items()},
            accuracy.accuracy,
            accuracy.token_accuracy,
        )


class WalkFigures(ReportEntry, frozen=True):
    """Calls that fail, as few of them as there can be.

    Attributes:
        problem: what the last one does wrong.
        calls: in order.
        python: a script that makes them.
        threads: of the session; None for the number that was asked for.
        repeats: whether they fail in a session that has just been opened; else something before them matters.
        error, allowed: relative to the largest |value|; None where nothing was measured.
        position: of the first token that is off; None where it is no token's.
        tensor: what is off; empty where it is no tensor.
    """

    problem: str
    calls: tuple[str, ...]
    python: str
    threads: int | None
    repeats: bool
    error: Figure
    allowed: Figure
    position: int | None
    tensor: str


class CallsFigures(ReportEntry, frozen=True):
    """Walks of calls over everything that a session offers.

    Attributes:
        seed: of the walks.
        walks, calls: that were made.
        furthest: position that they reached.
        batches: numbers of sequences.
        failing: the first walk that failed, shrunk; None where none did.
        broken_off: prefills that an error ended between two of their parts; others had fewer parts.
    """

    seed: int
    walks: int
    calls: int
    furthest: int
    batches: tuple[int, ...]
    failing: WalkFigures | None
    broken_off: int = 0


class GuardFigures(ReportEntry, frozen=True):
    """One thing that has to be refused.

    Attributes:
        name: what it is, e.g. "token id beyond the vocabulary".
        passed: whether it was refused, and the state left alone.
        outcome: what happened, in a few words.
    """

    name: str
    passed: bool
    outcome: str


class CheckFigures(ReportEntry, frozen=True):
    """One of several things that a level looks at.

    Attributes:
        name: what it is, e.g. "two sequences in turn".
        passed: whether it is as it has to be.
        outcome: what was found, in a few words.
    """

    name: str
    passed: bool
    outcome: str


class Figures(ReportEntry, frozen=True, kw_only=True):
    """Everything that a level measured; what it does not measure is left out.

    Attributes:
        tensors: how far each tensor is from the reference, in the order of computation.
        errors, allowed_errors: [T], of the logits by step, relative to the largest |logit|.
        chunks: lengths of the chunks of each split.
        heat: [N + 1][columns], error over what is allowed, by stream and stretch of steps.
        steps: of a long run, or of the longest row that calls read.
        growth, curve, states, allowed_states: of a long run: how the error develops, and per state
            tensor the relative error at its end with what is allowed.
        distribution: how much the distributions over the next token agree, and scale and offset of all logits.
        judged: of a quantized form, what its budget judges, each figure with its limit.
        examples: sequences of the task that were answered.
        after, before: accuracy of this runtime, and of what it is compared with; None where there is nothing.
        differences: by equality, the largest |difference| of a logit or state value, 0 where all bits are equal.
        claimed: which of them are claimed for this runtime.
        calls: walks of calls.
        guards: what has to be refused.
        checks: the things that a level looks at one by one.
    """

    tensors: tuple[Deviation, ...] | UnsetType = UNSET
    errors: tuple[Figure, ...] | UnsetType = UNSET
    allowed_errors: tuple[Figure, ...] | UnsetType = UNSET
    chunks: tuple[tuple[int, ...], ...] | UnsetType = UNSET
    heat: tuple[tuple[Figure, ...], ...] | UnsetType = UNSET
    steps: int | UnsetType = UNSET
    growth: GrowthFigures | UnsetType = UNSET
    curve: CurveFigures | UnsetType = UNSET
    distribution: Agreement | UnsetType = UNSET
    judged: tuple[JudgedFigure, ...] | UnsetType = UNSET
    states: Mapping[str, Figure] | UnsetType = UNSET
    allowed_states: Mapping[str, Figure] | UnsetType = UNSET
    examples: int | UnsetType = UNSET
    after: AccuracyFigures | UnsetType = UNSET
    before: AccuracyFigures | UnsetType | None = UNSET
    differences: Mapping[str, Figure] | UnsetType = UNSET
    claimed: tuple[str, ...] | UnsetType = UNSET
    calls: CallsFigures | UnsetType = UNSET
    guards: tuple[GuardFigures, ...] | UnsetType = UNSET
    checks: tuple[CheckFigures, ...] | UnsetType = UNSET


def largest_set(values: Iterable[int | UnsetType]) -> int:
    """The largest of the numbers that are there; 0 where none is."""
    return max((value for value in values if value is not UNSET), default=0)
