"""The level `drift`: how the error develops over a long run, step by step, and what that means for the end of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET

from causalrn.errors import NonFiniteError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.budgets import JudgedFigure, describe_judged, judge_agreement
from causalrn.runtimes.parity.comparison import (
    Agreement,
    compare_distributions,
    mean_agreement,
    relative_error,
)
from causalrn.runtimes.parity.figures import CurveFigures, Figures, GrowthFigures
from causalrn.runtimes.parity.growth import Growth, fit_growth
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.logit_fit import FitSums
from causalrn.runtimes.parity.reference import Reference, compared_tensors, current_values
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray

_SEGMENTS = 32
_MOST_TOKENS_AT_ONCE = 2048
_HORIZON = 10
"""A stream without end is expected to go on for so many times the steps that were run."""


class LongReference(ABC):
    """Reference logits along one long sequence, a stretch at a time."""

    tokens: IntArray
    """[1, S]."""

    @abstractmethod
    def advance(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """Reference logits [n, V] of positions start to end, and the largest |difference| allowed at each, [n]."""

    @abstractmethod
    def state(self) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        """The reference state after the last stretch, empty where it is not known, and the relative error allowed."""


class RecordedLongReference(LongReference):
    """The first of a reference's sequences, as long as it is: what a device has."""

    def __init__(self, reference: Reference) -> None:
        self.tokens = reference.tokens[:1]
        self._reference = reference
        self._end = 0

    def advance(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """See :meth:`LongReference.advance`."""
        self._end = end
        return self._reference.logits[0, start:end], self._reference.bounds.logits[start:end]

    def state(self) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        """See :meth:`LongReference.state`."""
        return self._reference.rows(slice(0, 1)).states.get(self._end, {}), self._reference.bounds.states


@dataclass
class _Curve:
    """One session's errors, relative to the largest |logit|: per stretch its last step, median, maximum and bound."""

    steps: list[int] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    sums: FitSums = field(default_factory=FitSums)
    first_bad: int | None = None

    def add(self, start: int, output: FloatArray, expected: FloatArray, allowed: FloatArray, largest: float) -> None:
        """Take in a stretch: logits [n, V], and the largest |difference| allowed at each position."""
        errors = np.abs(output - expected).max(1)
        bad = np.flatnonzero(~(errors <= allowed))
        if len(bad) and self.first_bad is None:
            self.first_bad = start + int(bad[0])
        self.steps.append(start + len(errors))
        self.medians.append(float(np.median(errors)) / largest)
        self.maxima.append(float(errors.max()) / largest)
        self.allowed.append(float(allowed[int(errors.argmax())]) / largest)
        self.agreements.append(compare_distributions(output[None], expected[None]))
        self.sums += FitSums.of(output, expected)

    def agreement(self) -> Agreement:
        """Of the whole run."""
        return mean_agreement(self.agreements, self.sums.fit())

    @property
    def worst(self) -> int:
        """The stretch whose error is largest for what is allowed; NaN before all."""
        return int(np.argmax(np.array(self.maxima) / np.array(self.allowed)))

    def figures(self) -> CurveFigures:
        """The curve as a report has it."""
        return CurveFigures(tuple(self.steps), tuple(self.medians), tuple(self.maxima), tuple(self.allowed))


def check_drift(
    sessions: Mapping[str, CellSession],
    long: LongReference,
    cases: Mapping[str, Case],
    *,
    seconds: float | None,
    on_steps: Callable[[int], object] = lambda count: None,
) -> list[LevelResult]:
    """Step all sessions along one long sequence, in lockstep with the reference.

    Args:
        sessions, cases: by runtime.
        seconds: stop after the stretch that passes this; None goes to the end.
        on_steps: called with the number of steps after each stretch, for progress bars.
    """
    curves = {runtime: _Curve() for runtime in sessions}
    for session in sessions.values():
        session.reset(1)
    started, largest, end = time.monotonic(), 0.0, 0
    ends = _stretches(long.tokens.shape[1])
    for start, end in zip([0, *ends], ends, strict=False):
        expected, allowed = long.advance(start, end)
        largest = max(largest, float(np.abs(expected).max())) or 1.0
        for runtime, session in sessions.items():
            curves[runtime].add(start, _step(session, long.tokens[0, start:end]), expected, allowed, largest)
        on_steps(end - start)
        if seconds is not None and time.monotonic() - started > seconds:
            break
    state, allowed_state = long.state()
    results = []
    for runtime, session in sessions.items():
        errors = _state_errors(session, state)
        results.append(_result(runtime, session, curves[runtime], cases[runtime], errors, allowed_state))
        session.reset(1)
    return results


def _stretches(steps: int) -> list[int]:
    """Where stretches end: dense at the beginning, then evenly spread, none longer than memory allows."""
    ends = {int(end) for end in np.geomspace(1, steps, _SEGMENTS // 2)}
    ends |= {int(end) for end in np.linspace(0, steps, _SEGMENTS + 1)[1:]}
    return sorted((ends | set(range(_MOST_TOKENS_AT_ONCE, steps, _MOST_TOKENS_AT_ONCE))) - {0})


def _step(session: Session, tokens: IntArray) -> FloatArray:
    """[n, V], NaN from where the session gave NaN or infinity."""
    logits = np.full((len(tokens), session.card.config.vocabulary), np.nan)
    try:
        for index, token in enumerate(tokens):
            logits[index] = session.step(token[None])[0]
    except NonFiniteError:
        pass
    return logits


def _result(
    runtime: str,
    session: CellSession,
    curve: _Curve,
    case: Case,
    states: Mapping[str, float],
    allowed_states: Mapping[str, float],
) -> LevelResult:
    """The result of a curve, and of the state at its end."""
    growth = fit_growth(np.array(curve.steps), np.array(curve.medians))
    horizon = session.capacity or _HORIZON * curve.steps[-1]
    wrong = [name for name, error in states.items() if not error <= allowed_states[name]]
    tensor = wrong[0] if wrong else None  # in the order of computation, as the state contract has them
    judged: tuple[JudgedFigure, ...] = ()
    if case.budget is None:
        passed, words = _judge(curve, growth, horizon, tensor)
    else:
        judged, tensor = judge_agreement(curve.agreement(), case.budget), None
        words, passed = describe_judged(judged), all(figure.passed for figure in judged)
    return LevelResult(
        "drift",
        runtime,
        passed,
        f"{growth.name} over {curve.steps[-1]:,} steps{', ' if words else ''}{words}",
        curve.maxima[curve.worst],
        None if judged else curve.allowed[curve.worst],
        None if passed else curve.first_bad,
        next((each.block for each in session.spec.tensors if each.name == tensor), None),
        tensor,
        Figures(
            steps=curve.steps[-1],
            growth=GrowthFigures(growth.name, growth.start, growth.rate, horizon, growth.at(horizon)),
            curve=curve.figures(),
            distribution=curve.agreement(),
            states=states,
            allowed_states={name: allowed_states[name] for name in states},
            judged=judged or UNSET,
        ),
    )


def _judge(curve: _Curve, growth: Growth, horizon: int, tensor: str | None) -> tuple[bool, str]:
    """Within tolerance everywhere, the state at the end, too, and not growing out of it; or else why not."""
    predicted = growth.at(horizon)
    grows = growth.name != "flat" and not predicted <= curve.allowed[-1]
    if curve.first_bad is not None:
        words = [f"step {curve.first_bad} on"]
    else:
        words = [f"{predicted:.0e} at {horizon:,}"] if grows else []
    words += [] if tensor is None else [tensor]
    return not words, ", ".join(words)


def _state_errors(session: CellSession, expected: Mapping[str, Array]) -> dict[str, float]:
    """By tensor, how far the state is off at the end, relative to its largest value."""
    values, names = current_values(session), [tensor.name for tensor in compared_tensors(session)]
    return {name: relative_error(values[name], expected[name]) for name in names if name in expected}
