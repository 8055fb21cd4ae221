"""What a verification found: one result per level and runtime, and for what failed, where and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, get_args

import msgspec
from msgspec import UNSET

from causalrn.runtimes.parity.comparison import Deviation
from causalrn.runtimes.parity.entries import Figure, ReportEntry
from causalrn.runtimes.parity.figures import Figures

Level = Literal[
    "contract",
    "logits",
    "state",
    "split",
    "layer",
    "rows",
    "isolation",
    "reorder",
    "padding",
    "positions",
    "reload",
    "calls",
    "drift",
    "task",
    "determinism",
    "kernels",
    "guards",
]
ALL_LEVELS: tuple[Level, ...] = get_args(Level)
"""In the order in which they are checked and shown."""
_OF_FUNCTIONS = ("contract", "rows", "isolation", "reorder", "padding", "positions", "reload")
_OF_BUNDLES = ("task", "kernels", "guards")
LEVELS: tuple[Level, ...] = tuple(level for level in ALL_LEVELS if level not in _OF_FUNCTIONS)
"""Those of bundles."""
MODEL_LEVELS: tuple[Level, ...] = tuple(level for level in ALL_LEVELS if level not in _OF_BUNDLES)
"""Those of models that users bring."""
REFERENCE_LEVELS: tuple[Level, ...] = ("logits", "state", "split", "layer", "calls", "drift", "kernels")
"""Those that compare what comes out with the reference, value by value."""

Cause = Literal[
    "graph",
    "runtime",
    "graph or runtime",
    "state handling",
    "cell",
    "weights",
    "step",
    "prefill",
    "parallel form",
    "state",
    "randomness",
    "unknown",
]


class LevelResult(ReportEntry, frozen=True):
    """One runtime at one level.

    Errors are relative to the largest |value| of the tensor in the reference, without a unit; steps and blocks count
    from 0.

    Attributes:
        level: one of :data:`ALL_LEVELS`.
        runtime: what ran and how, e.g. "onnxruntime" or "onnxruntime, prefill"; the entry `form` in JSON.
        passed: whether everything is within tolerance.
        summary: the outcome in a few words.
        error, allowed: the worst relative error for what is allowed, and what is allowed there; None where a level
            does not measure one, and what is allowed also where a budget judges: `figures.judged` has its limits.
        step, block, tensor: where it is first out of tolerance; None where it is not, or not known.
        figures: everything measured.
    """

    level: Level
    runtime: str = msgspec.field(name="form")
    passed: bool
    summary: str
    error: Figure = None
    allowed: Figure = None
    step: int | None = None
    block: int | None = None
    tensor: str | None = None
    figures: Figures = Figures()

    @property
    def subject(self) -> str:
        """The runtime's name alone: "onnxruntime" of "onnxruntime, prefill"."""
        return self.runtime.partition(",")[0]

    @classmethod
    def from_deviations(
        cls,
        level: Level,
        runtime: str,
        deviations: Sequence[Deviation],
        figures: Figures,
        *,
        summary: str,
        verdict: bool | None = None,
    ) -> LevelResult:
        """The result of comparing tensors: it names the first one, in the order of computation, that is off first.

        Args:
            figures: what else was measured.
            summary: the words where all is well, or something else decides.
            verdict: whether the level passes, where something else than the deviations decides.
        """
        bad = [deviation for deviation in deviations if not deviation.passed]
        worst = max(deviations, key=lambda deviation: deviation.ratio, default=None)
        first = min(bad, key=lambda deviation: deviation.first_bad_step or 0, default=None)
        passed = worst is not None and (not bad if verdict is None else verdict)  # what compares nothing never passes
        if first is not None and verdict is None:
            row = "" if first.bad_row is None else f", row {first.bad_row}"
            summary = f"step {first.first_bad_step}: {first.place}, {first.tensor}{row}"
        return cls(
            level,
            runtime,
            passed,
            summary if worst is not None else "nothing came out that could be compared",
            None if worst is None else worst.error,
            None if worst is None or figures.judged is not UNSET else worst.allowed,
            None if first is None else first.first_bad_step,
            None if first is None else first.block,
            None if first is None else first.tensor,
            msgspec.structs.replace(figures, tensors=tuple(deviations)),
        )


def not_finite(level: Level, runtime: str) -> LevelResult:
    """The result of a runtime that gave NaN or infinity where a level needs numbers."""
    return LevelResult(level, runtime, False, "NaN or infinity came out")


class StartState(StrEnum):
    """The state from which a step was computed again."""

    OWN = "own"
    """As it was carried there from the beginning."""
    REFERENCE = "exact"
    """The reference's, fed in."""
    NONE = "none"
    """None: everything was computed anew."""


class Side(ReportEntry, frozen=True):
    """One way of computing the step at which something first goes wrong.

    Attributes:
        runtime: "parallel", "recurrent", "onnxruntime", "graph in float64", ...; the entry `form` in JSON.
        state: what it started from.
        passed: whether it agrees with the oracle.
        problem: why it could not be computed; empty where it was.
        deviations: how far each tensor is from the oracle, in the order of computation; `tensors` in JSON.
    """

    runtime: str = msgspec.field(name="form")
    state: StartState
    passed: bool
    problem: str
    deviations: tuple[Deviation, ...] = msgspec.field(name="tensors")

    @classmethod
    def of(cls, runtime: str, state: StartState, deviations: Sequence[Deviation]) -> Side:
        """What was computed."""
        passed = all(deviation.passed for deviation in deviations)
        return cls(runtime, state, passed, "", tuple(deviations))

    @property
    def first(self) -> Deviation | None:
        """The first tensor out of tolerance, in the order of computation."""
        return next((deviation for deviation in self.deviations if not deviation.passed), None)

    @property
    def worst(self) -> Deviation | None:
        """What is furthest off for what is allowed."""
        return max(self.deviations, key=lambda deviation: deviation.ratio, default=None)


class Attribution(ReportEntry, frozen=True):
    """Where a failure begins, and which side is wrong.

    Attributes:
        level, runtime: what failed; the second is the entry `form` in JSON.
        step: the first position out of tolerance, from 0.
        tensor, place: the first tensor out of tolerance there, and what computed it.
        cause: what is at fault, in a word or two.
        verdict: one sentence for people.
        sides: the ways of computing that step that were compared.
    """

    level: Level
    runtime: str = msgspec.field(name="form")
    step: int
    tensor: str
    place: str
    cause: Cause
    verdict: str
    sides: tuple[Side, ...]
