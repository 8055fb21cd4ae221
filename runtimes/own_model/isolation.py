"""The level `isolation`: what one sequence does must not reach another, nor a state that was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import CausalRNError
from causalrn.model.own.state_probe import FirstRun, StateProbe
from causalrn.model.own.state_tree import clone
from causalrn.runtimes.own_model.sessions import StepSession, numbers, to_array
from causalrn.runtimes.parity.comparison import relative_error
from causalrn.runtimes.parity.figures import CheckFigures, Figures
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Reference
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.snapshot import FloatArray, IntArray

_STEPS = 24


@dataclass(frozen=True)
class Isolation:
    """What the level runs.

    Attributes:
        session: of the model.
        open_again: another session over the same modules.
        probe: what was found of the state.
        case: the reference; its first two rows are run.
        chance: modules that draw random numbers: nothing can be told of them.
    """

    session: StepSession
    open_again: Callable[[], StepSession]
    probe: StateProbe
    case: Case
    chance: Sequence[str] = ()

    def check(self) -> LevelResult:
        """Every check, one after the other."""
        checks = tuple(self._checks())
        wrong = [check for check in checks if not check.passed]
        summary = wrong[0].outcome if wrong else ", ".join(check.name for check in checks)
        fault = next((fault for fault in self.probe.faults if fault.kind in ("in place", "on the module")), None)
        tensor = fault.tensor if fault is not None else None
        if wrong and fault is not None:
            summary = fault.words
        elif wrong and self.chance:
            tensor, summary = self.chance[0], f"{self.chance[0]} draws random numbers: nothing can be told"
        elif wrong:
            tensor = self._lasting_tensor()
        return LevelResult(
            "isolation",
            self.session.runtime,
            not wrong,
            summary,
            tensor=tensor if wrong else None,
            figures=Figures(checks=checks),
        )

    def _checks(self) -> Iterator[CheckFigures]:
        for name, run in {
            "a fresh state after a used one": self._after_another,
            "two sequences in turn": self._in_turn,
            "a forked state": self._forked,
        }.items():
            try:
                error = run()
            except CausalRNError as fault:
                yield CheckFigures(name, False, f"{name}: {fault}")
                continue
            allowed = self._allowed
            passed = error <= allowed
            words = f"{error:.1e} (allowed {allowed:.1e})" if passed else f"{name}: logits are off by {error:.0e}"
            yield CheckFigures(name, passed, words)
        held = self._kept()
        yield CheckFigures("a state that is kept", not held, f"step changes {held} in place" if held else "unchanged")
        yield self._outside()

    def _outside(self) -> CheckFigures:
        """What is kept outside the state may stay there, e.g. a counter of calls, if nothing depends on it."""
        name, faults = "nothing outside the state", [f for f in self.probe.faults if f.kind == "on the module"]
        if not faults:
            return CheckFigures(name, True, "nothing")
        try:
            error = max(self._again(run) for run in self.probe.first_runs)
        except CausalRNError as fault:
            return CheckFigures(name, False, f"{faults[0].words} ({fault})")
        if error <= self._allowed:
            return CheckFigures(name, True, f"{', '.join(fault.tensor for fault in faults)}: nothing depends on it")
        return CheckFigures(name, False, f"{faults[0].words}: logits are off by {error:.0e} since the first run")

    def _again(self, run: FirstRun) -> float:
        """How far the model is from what it gave when it first ran."""
        tokens, errors = run.tokens.numpy(), []
        with self.open_again() as session:
            session.reset(len(tokens))
            steps = np.stack([session.step(token) for token in tokens.T], 1)  # [B, T, V]
            errors.append(self._error(steps, numbers(run.stepped)))
            if run.prefilled is not None:
                session.reset(len(tokens))
                errors.append(self._error(session.prefill(tokens), numbers(run.prefilled)))
        return max(errors)

    @property
    def _reference(self) -> Reference:
        return self.case.reference

    @property
    def _tokens(self) -> IntArray:
        return self._reference.tokens[:2, :_STEPS]

    @property
    def _allowed(self) -> float:
        return repeat_bound(self._reference, self._tokens.shape[1])

    def _alone(self, row: int) -> FloatArray:
        """Steps of one row in a session of its own, from a fresh state: [T, V]."""
        with self.open_again() as session:
            return _steps(session, self._tokens[row % len(self._tokens)])

    def _error(self, one: FloatArray, two: FloatArray) -> float:
        return float(np.abs(one - two).max()) / self._reference.largest_logit

    def _after_another(self) -> float:
        """The same sequence in a session that has seen another one."""
        before = self._alone(0)
        self.session.reset(1)
        _steps(self.session, self._tokens[-1])
        self.session.reset(1)
        return self._error(before, _steps(self.session, self._tokens[0]))

    def _in_turn(self) -> float:
        """Two sessions, a token of the one after a token of the other."""
        expected = [self._alone(row) for row in (0, 1)]
        with self.open_again() as first, self.open_again() as second:
            found: tuple[list[FloatArray], list[FloatArray]] = ([], [])
            for one, two in zip(self._tokens[0], self._tokens[-1], strict=True):
                found[0].append(first.step([one])[0])
                found[1].append(second.step([two])[0])
        return max(self._error(np.stack(rows), alone) for rows, alone in zip(found, expected, strict=True))

    def _forked(self) -> float:
        """Half a sequence, then another's rest, then its own rest from the state in the middle."""
        middle = self._tokens.shape[1] // 2
        self.session.reset(1)
        _steps(self.session, self._tokens[0][:middle])
        snapshot = self.session.snapshot()
        _steps(self.session, self._tokens[-1][middle:])
        self.session.restore(snapshot)
        rest = _steps(self.session, self._tokens[0][middle:])
        return self._error(self._alone(0)[middle:], rest)

    def _kept(self) -> str:
        """The first tensor of a state that changes while the session goes on; "" where none does."""
        self.session.reset(1)
        _steps(self.session, self._tokens[0][:3])
        held, copies = list(self.session.store.tensors), clone(self.session.store.tensors)
        _steps(self.session, self._tokens[0][3:6])
        names = [tensor.name for tensor in self.session.spec.tensors]
        self.session.reset(1)
        for name, now, before in zip(names, held, copies, strict=True):
            if not np.array_equal(to_array(now), to_array(before), equal_nan=True):
                return name
        return next(iter(sorted(self.probe.in_place)), "")

    def _lasting_tensor(self) -> str | None:
        """The tensor of a fresh state that is another one after the session was used."""
        with self.open_again() as session:
            first = session.snapshot().tensors
            _steps(session, self._tokens[0])
            session.reset(1)
            again = session.snapshot().tensors
        wrong = [name for name, value in again.items() if value.size and relative_error(value, first[name]) > 0]
        return wrong[0] if wrong else None


def repeat_bound(reference: Reference, steps: int) -> float:
    """How far two runs of the same operations on the same numbers may be apart, relative to the largest logit.

    They should be equal: what is estimated of rounding only narrows a fixed tolerance, for it is estimated by running
    copies of the model, and what these keep outside their state would widen it.
    """
    largest = reference.largest_logit
    fixed = TOLERANCES["float32", "recurrent"].logit_bound(largest)
    return min(fixed, 2 * float(reference.bounds.logits[steps - 1])) / largest


def _steps(session: StepSession, tokens: IntArray) -> FloatArray:
    return np.stack([session.step([token])[0] for token in tokens])
