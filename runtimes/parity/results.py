"""What a verification found: one result per level and form, and for what failed, where and whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from causalrn.bundle.json_values import finite
from causalrn.runtimes.parity.comparison import Deviation

LEVELS = ("logits", "state", "split", "layer", "drift", "task", "determinism")


@dataclass(frozen=True)
class LevelResult:
    """One form at one level.

    Attributes:
        level: one of :data:`LEVELS`.
        runtime: what ran and how, e.g. "onnxruntime" or "onnxruntime, prefill".
        passed: whether everything is within tolerance.
        summary: the outcome in a few words.
        error, allowed: the worst relative error for what is allowed, and what is allowed there; None where a level
            does not measure one.
        step, block, tensor: where it is first out of tolerance; None where it is not, or not known.
        figures: everything measured, as JSON values.
    """

    level: str
    runtime: str
    passed: bool
    summary: str
    error: float | None = None
    allowed: float | None = None
    step: int | None = None
    block: int | None = None
    tensor: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_deviations(
        cls,
        level: str,
        runtime: str,
        deviations: Sequence[Deviation],
        *,
        summary: str,
        verdict: bool | None = None,
        **figures: Any,
    ) -> LevelResult:
        """The result of comparing tensors: it names the first one, in the order of computation, that is off first.

        Args:
            summary: what to say where all is well, or something else decides.
            verdict: whether the level passes, where something else than the deviations decides.
        """
        bad = [deviation for deviation in deviations if not deviation.passed]
        worst = max(deviations, key=lambda deviation: deviation.ratio, default=None)
        first = min(bad, key=lambda deviation: deviation.first_bad_step or 0, default=None)
        passed = not bad and worst is not None if verdict is None else verdict
        if first is not None and verdict is None:
            row = "" if first.bad_row is None else f", row {first.bad_row}"
            summary = f"step {first.first_bad_step}: {first.place}, {first.tensor}{row}"
        return cls(
            level,
            runtime,
            passed,
            summary if worst is not None else "nothing came out that could be compared",
            None if worst is None else worst.error,
            None if worst is None else worst.allowed,
            None if first is None else first.first_bad_step,
            None if first is None else first.block,
            None if first is None else first.tensor,
            {"tensors": [deviation_json(deviation) for deviation in deviations], **figures},
        )

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values; figures that are not finite become null."""
        figures = {"error": finite(self.error), "allowed": finite(self.allowed)}
        return {"form" if name == "runtime" else name: value for name, value in self.__dict__.items()} | figures


def not_finite(level: str, runtime: str) -> LevelResult:
    """The result of a form that gave NaN or infinity where a level needs numbers."""
    return LevelResult(level, runtime, False, "NaN or infinity came out")


@dataclass(frozen=True)
class Side:
    """One way of computing the step at which something first goes wrong.

    Attributes:
        runtime: "parallel", "recurrent", "onnxruntime", "graph in float64", ...
        state: "own" (carried from the beginning), "exact" (the reference's, fed in), or "none" (computed anew).
        deviations: how far each tensor is from the oracle.
        problem: why it could not be computed; empty where it was.
    """

    runtime: str
    state: str
    deviations: tuple[Deviation, ...]
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether this side agrees with the oracle."""
        return not self.problem and all(deviation.passed for deviation in self.deviations)

    @property
    def first(self) -> Deviation | None:
        """The first tensor out of tolerance, in the order of computation."""
        return next((deviation for deviation in self.deviations if not deviation.passed), None)

    @property
    def worst(self) -> Deviation | None:
        """What is furthest off for what is allowed."""
        return max(self.deviations, key=lambda deviation: deviation.ratio, default=None)

    def to_json(self) -> dict[str, Any]:
        """The side as JSON values."""
        return {
            "form": self.runtime,
            "state": self.state,
            "passed": self.passed,
            "problem": self.problem,
            "tensors": [deviation_json(deviation) for deviation in self.deviations],
        }


@dataclass(frozen=True)
class Attribution:
    """Where a failure begins, and which side is wrong.

    Attributes:
        level, runtime: what failed.
        step: the first position out of tolerance.
        tensor, place: the first tensor out of tolerance there, and what computed it.
        cause: "graph", "runtime", "graph or runtime", "state handling", "cell", "weights" or "unknown".
        verdict: one sentence for people.
        sides: the ways of computing that step that were compared.
    """

    level: str
    runtime: str
    step: int
    tensor: str
    place: str
    cause: str
    verdict: str
    sides: tuple[Side, ...]

    def to_json(self) -> dict[str, Any]:
        """The attribution as JSON values."""
        sides = {"sides": [side.to_json() for side in self.sides]}
        return {"form" if name == "runtime" else name: value for name, value in self.__dict__.items()} | sides


def deviation_json(deviation: Deviation) -> dict[str, Any]:
    """A deviation as JSON values."""
    return {
        **deviation.__dict__,
        "block": deviation.block,
        "error": finite(deviation.error),
        "allowed": finite(deviation.allowed),
    }
