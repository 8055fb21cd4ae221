"""Parity: sessions compared with a reference. Says how far each form is from the oracle, and where it first leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalrn.errors import NonFiniteError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.reference import Golden, Reference, States, compared_states, drive_in_steps, recorded_snapshot
from causalrn.runtimes.session import Array, FloatArray, Session
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.tolerances import REGRESSION_RELATIVE, TOLERANCES, Tolerance


@dataclass(frozen=True)
class ParityRow:
    """One form compared with the reference.

    Attributes:
        form: what ran and how, e.g. "onnxruntime, steps".
        max_abs: largest |difference| of logits; NaN never passes.
        relative: max_abs over the largest |logit| of the reference.
        bound: largest |difference| of logits allowed.
        state_relative: worst state tensor's largest |difference| over its largest |value|; None without a state.
        state_bound: largest state_relative allowed.
        argmax_agreement: share of positions with the same most likely token.
        first_bad_step: first position out of tolerance, from 0; None if there is none.
        recorded_relative: against what the writing runtime said itself; None without golden vectors.
        task: how well it does the model's task; None where that is not measured.
    """

    form: str
    max_abs: float
    relative: float
    bound: float
    state_relative: float | None
    state_bound: float
    argmax_agreement: float
    first_bad_step: int | None
    recorded_relative: float | None = None
    task: TaskAccuracy | None = None

    @property
    def passed(self) -> bool:
        """Whether logits, states and recorded values are all within tolerance."""
        return (
            self.first_bad_step is None
            and (self.state_relative is None or self.state_relative <= self.state_bound)
            and (self.recorded_relative is None or self.recorded_relative <= REGRESSION_RELATIVE)
        )

    @property
    def is_finite(self) -> bool:
        """Whether the form gave numbers at all: one that gave NaN or infinity has nothing more to measure."""
        return bool(np.isfinite(self.max_abs))

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values; figures that are not finite become null."""
        data: dict[str, Any] = {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in self.__dict__.items()
        }
        return data | {"task": None if self.task is None else self.task.to_json(), "passed": self.passed}


_Drive = Callable[[Any], tuple[FloatArray, States]]


def compare_parallel(session: Session, reference: Reference) -> ParityRow:
    """A session that computes everything at once: logits only, it has no state to compare."""
    session.reset(len(reference.tokens))
    tolerance = TOLERANCES["float32", "parallel"]
    try:
        return _row("parallel", session.prefill(reference.tokens), None, reference, tolerance)
    except NonFiniteError:
        return _not_finite("parallel", session.position, reference, tolerance)


def compare_steps(session: Session, reference: Reference) -> ParityRow:
    """Every sequence alone, and all as a batch, token by token from a fresh state."""
    return _compare_rows(session, reference, "steps", lambda tokens: _steps(session, tokens, reference))


def compare_prefill(session: Session, reference: Reference) -> ParityRow:
    """The same by two prefills of uneven length, the second onto a state, and then steps."""
    return _compare_rows(
        session, reference, "prefill+steps", lambda tokens: _prefill_then_steps(session, tokens, reference)
    )


def compare_resumed(session: Session, golden: Golden) -> ParityRow:
    """All rows as a batch, resumed from the recorded mid-sequence state."""
    snapshot = recorded_snapshot(golden, session.owner)
    form, tolerance = f"{session.runtime}, resumed", TOLERANCES["float32", session.runtime]
    tokens, first = golden.reference.tokens, snapshot.position
    tail = Reference(tokens[:, first:], golden.reference.logits[:, first:], {}, 0.0)
    session.restore(snapshot)
    try:
        logits = [session.step(tokens[:, index]) for index in range(first, tokens.shape[1])]
    except NonFiniteError:
        return _not_finite(form, session.position, tail, tolerance)
    finally:
        session.reset(1)
    row = _row(form, np.stack(logits, axis=1), {}, tail, tolerance)
    bad = row.first_bad_step
    return dataclasses.replace(row, first_bad_step=None if bad is None else bad + first)


def against_recorded(row: ParityRow, session: CellSession, golden: Golden) -> ParityRow:
    """Add to a row how far the session is, step by step, from what the writing runtime said."""
    if not row.is_finite:
        return row
    logits, states = drive_in_steps(session, golden.reference.tokens, tuple(golden.recorded_states))
    session.reset(1)
    errors = [_relative(logits, golden.recorded_logits)]
    errors += [
        _relative(states[position][name], value)
        for position, recorded in compared_states(session, golden.recorded_states).items()
        for name, value in recorded.items()
    ]
    return dataclasses.replace(row, recorded_relative=float(np.max(errors)))


def with_task(row: ParityRow, task: TaskAccuracy) -> ParityRow:
    """The row with an accuracy."""
    return dataclasses.replace(row, task=task)


def _compare_rows(session: Session, reference: Reference, mode: str, run: _Drive) -> ParityRow:
    """Run each sequence alone, then all as a batch (other graphs may serve it), and compare everything."""
    assert isinstance(session, CellSession)
    form, tolerance = f"{session.runtime}, {mode}", TOLERANCES["float32", session.runtime]
    sequences = [reference.tokens[index : index + 1] for index in range(len(reference.tokens))]
    try:
        runs = [run(tokens) for tokens in [*sequences, reference.tokens]]
    except NonFiniteError:
        return _not_finite(form, session.position, reference, tolerance)
    finally:
        session.reset(1)
    twice = _twice(session, reference)
    states = {
        position: {
            name: np.concatenate([row[position][name] for _, row in runs], axis=_batch_axis(session, name))
            for name in reference_states
        }
        for position, reference_states in twice.states.items()
    }
    return _row(form, np.concatenate([logits for logits, _ in runs]), states, twice, tolerance)


def _twice(session: CellSession, reference: Reference) -> Reference:
    """The reference for each sequence alone and again for the batch, without states that hold rounding only."""
    states = {
        position: {
            name: np.concatenate([value, value], axis=_batch_axis(session, name)) for name, value in tensors.items()
        }
        for position, tensors in compared_states(session, reference.states).items()
    }
    tokens, logits = (np.concatenate([value, value]) for value in (reference.tokens, reference.logits))
    return Reference(tokens, logits, states, reference.recurrent_error)


def _not_finite(form: str, position: int, reference: Reference, tolerance: Tolerance) -> ParityRow:
    """The row of a form that gave NaN or infinity at `position`."""
    bound, nan = tolerance.logit_bound(reference.largest_logit), float("nan")
    return ParityRow(form, nan, nan, bound, nan, tolerance.state_relative, 0.0, position)


def _batch_axis(session: Session, name: str) -> int:
    assert isinstance(session, CellSession)
    return next(tensor.batch_axis for tensor in session.spec.tensors if tensor.name == name)


def _steps(session: Session, tokens: Any, reference: Reference) -> tuple[FloatArray, States]:
    return drive_in_steps(session, tokens, tuple(reference.states))


def _prefill_then_steps(session: Session, tokens: Any, reference: Reference) -> tuple[FloatArray, States]:
    length = tokens.shape[1]
    cuts = sorted({length // 3, *(position for position in reference.states if position < length)} - {0})
    session.reset(len(tokens))
    parts: list[FloatArray] = []
    states: dict[int, dict[str, Array]] = {}
    start = 0
    for cut in cuts:
        parts.append(session.prefill(tokens[:, start:cut]))
        start = cut
        if cut in reference.states:
            states[cut] = dict(session.snapshot().tensors)
    parts += [session.step(tokens[:, index])[:, None] for index in range(start, length)]
    if length in reference.states:
        states[length] = dict(session.snapshot().tensors)
    return np.concatenate(parts, axis=1), states


def _row(form: str, logits: FloatArray, states: States | None, reference: Reference, tolerance: Tolerance) -> ParityRow:
    difference = np.abs(logits.astype(np.float64) - reference.logits)  # [B, T, V]
    largest = reference.largest_logit
    bound = tolerance.logit_bound(largest)
    bad_steps = np.flatnonzero(~(difference <= bound).all((0, 2)))  # NaN is bad
    max_abs = float(difference.max())
    state_errors = [
        _relative(value, reference.states[position][name])
        for position, tensors in (states or {}).items()
        for name, value in tensors.items()
    ]
    return ParityRow(
        form=form,
        max_abs=max_abs,
        relative=max_abs / largest if largest else max_abs,
        bound=bound,
        state_relative=float(np.max(state_errors)) if state_errors else None,
        state_bound=tolerance.state_relative,
        argmax_agreement=float((logits.argmax(-1) == reference.logits.argmax(-1)).mean()),
        first_bad_step=int(bad_steps[0]) if len(bad_steps) else None,
    )


def _relative(value: FloatArray, expected: FloatArray) -> float:
    """Largest |difference| over the largest |expected value|; NaN stays NaN."""
    if value.shape != expected.shape:
        return float("inf")
    largest = float(np.abs(expected).max(initial=0.0))
    error = float(np.abs(value.astype(np.float64) - expected).max(initial=0.0))
    return error / largest if largest else error
