"""One check of a model that users bring: its state, its forms in float64, and all levels over its sessions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from causalrn.bundle.tolerances import LARGEST_BOUND
from causalrn.errors import InputError
from causalrn.model.own.copying import modules_of
from causalrn.model.own.forms import mask_name
from causalrn.runtimes.own_model.agreement import Agreement64, compare_forms, compare_prefill
from causalrn.runtimes.own_model.function_levels import check_contract, check_positions, check_reload
from causalrn.runtimes.own_model.isolation import Isolation
from causalrn.runtimes.own_model.long_agreement import LongAgreement, SteppedLongReference, compare_long
from causalrn.runtimes.own_model.model import OwnModel, check_widths
from causalrn.runtimes.own_model.oracle import OwnOracle
from causalrn.runtimes.own_model.own_words import NO_NUMBERS, STEP_WITH_ITSELF, in_own_words
from causalrn.runtimes.own_model.padding import check_padding
from causalrn.runtimes.own_model.session_levels import check_reorder, check_rows
from causalrn.runtimes.own_model.sessions import StepSession, WholeSession, forward, step_through
from causalrn.runtimes.own_model.watching import NarrowOperation, narrow_operations, random_parts, some
from causalrn.runtimes.parity.attribution import Comparators
from causalrn.runtimes.parity.calls.oracle_table import oracle_table
from causalrn.runtimes.parity.calls.table import CallTable, call_tokens
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.plan import Plan
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.parity.results import ALL_LEVELS, MODEL_LEVELS, Level, LevelResult
from causalrn.runtimes.parity.verification import Verification
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, IntArray

_NOISE_SHARE, _FORMS_SHARE, _CALL_SECONDS = 0.1, 0.1, 3.0
_LEAST_ROWS = 3


@dataclass
class OwnCheck:
    """A check of a model. :meth:`run` fills in what stands below.

    Attributes:
        model: what is checked.
        tokens: int64 [B, T]; at least three rows of them are compared.
        levels: which of :data:`MODEL_LEVELS`.
        seed: of tokens and calls.
        seconds: how long it may take.
        drift_steps: tokens of the long run.
        verification: all results.
        agreement: of both forms in float64.
        notes, problems: beside the results.
    """

    model: OwnModel
    tokens: IntArray
    levels: Sequence[Level] = MODEL_LEVELS
    seed: int = 0
    seconds: float = 60.0
    drift_steps: int = 256
    progress: Progress = no_progress
    verification: Verification = field(init=False)
    agreement: Agreement64 = field(init=False)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _narrow: tuple[tuple[str, str], ...] = ()
    _prefill: Agreement64 | None = None
    _long: LongAgreement | None = None
    _stops: bool = False
    _chance: tuple[str, ...] = ()

    def run(self) -> None:
        """Check level by level.

        Raises:
            InputError: a function raises something, or the model gives nothing that can be compared.
        """
        try:
            self._run()
        except InputError as error:
            outside = next((fault for fault in self.model.probe.faults if fault.kind == "on the module"), None)
            if outside is None:
                raise
            raise InputError(f"{outside.words}; as it is, nothing can be compared ({error})") from error

    def _run(self) -> None:
        deadline = time.monotonic() + self.seconds
        with self.progress("oracle", 1):
            oracle, reference = self._reference()
        model, case = self.model, Case(reference, seed=self.seed)
        recurrent = StepSession(model.cell(), model.card, model.sha256)
        sessions: dict[str, Session] = {"recurrent": recurrent}
        if self.agreement.agrees:  # else it is told once, of the form that is wrong
            sessions = {"parallel": WholeSession(model.forms, model.card, model.sha256), **sessions}
        long = self._long_reference(oracle, reference)
        plan = Plan(levels=tuple(self.possible()), deadline=deadline, torch_seconds=_CALL_SECONDS)
        self.verification = Verification(
            sessions,
            case,
            plan,
            long,
            lambda name, threads: self._again(recurrent),
            Comparators({}, states=oracle.states),
            references=lambda tokens: oracle.reference(
                tokens, () if long.is_over else state_positions(tokens.shape[1])
            ),
            table=lambda: self._table(oracle, reference),
            opening="open_model(make())",
            further=self._further(oracle, recurrent, case),
            progress=self.progress,
        )
        with contextlib.closing(recurrent):
            self.verification.run()
        self._look_further(oracle)
        self._conclude()

    def _reference(self) -> tuple[OwnOracle, Reference]:
        """What everything is compared with, and whether the forms agree in it."""
        model = self.model
        check_widths(model.forms)
        oracle = OwnOracle(model.pristine, model.probe, model.card)
        self._chance = self._look_for_chance()
        self.agreement = compare_forms(oracle, self.tokens).by_chance(self._chance)
        step_is_right = self.agreement.at_fault != "step"
        found = compare_prefill(oracle, self.tokens, self.agreement.allowed) if step_is_right else None
        self._prefill = None if found is None else found.by_chance(self._chance)
        steps = self.tokens.shape[1]
        self._stops = not self.agreement.agrees and oracle.leads == "parallel"  # the step gives NaN
        reference = oracle.reference(self.tokens, () if self._stops else state_positions(steps))
        self._look_at_widths(oracle)
        if not self._stops:
            self._look_at_bounds(reference)
        return oracle, reference

    def _look_further(self, oracle: OwnOracle) -> None:
        """What shows only after drift and calls: forms that part late, tensors that stop growing."""
        long, known = self.verification.long, self.tokens.shape[1]
        assert isinstance(long, SteppedLongReference)
        if self.agreement.agrees:
            with self.progress("both forms over the drift", 1):
                self._long = compare_long(oracle, long, known, _FORMS_SHARE * self.seconds)
            self.notes.append(self._long.note())
        for name, rows in oracle.windows.items():
            self.notes.append(f"{name} keeps its last {rows} rows: it can be verified, and not exported")
        results = self.verification.results
        for place, result in enumerate(results):
            if result.level == "contract":
                results[place] = check_contract(self.model.probe, oracle.irregular, self._narrow)

    def _again(self, session: StepSession) -> StepSession:
        """Another session over the same modules."""
        return StepSession(session.cell, self.model.card, self.model.sha256)

    def possible(self) -> list[Level]:
        """The levels that were asked for, and for which the model has what they look at."""
        forms = self.model.forms
        missing = {
            "layer": not forms.blocks,
            "padding": not (mask_name(forms.parallel) or mask_name(forms.prefill)),
            "positions": not forms.may_omit_position,
        }
        known = ("contract",) if self._stops else self.levels
        return [level for level in self.levels if level in known and not missing.get(level, False)]

    def _further(
        self, oracle: OwnOracle, session: StepSession, case: Case
    ) -> dict[Level, Callable[[], Sequence[LevelResult]]]:
        """The levels that only models have which users bring."""
        model = self.model
        isolation = Isolation(session, lambda: self._again(session), model.probe, case, self._chance)
        return {
            "contract": lambda: [check_contract(model.probe, oracle.irregular, self._narrow)],
            "rows": lambda: [check_rows("recurrent", session, case)],
            "isolation": lambda: [isolation.check()],
            "reorder": lambda: [check_reorder("recurrent", session, case)],
            "padding": lambda: check_padding(model.forms, oracle, case),
            "positions": lambda: check_positions(model.forms, case),
            "reload": lambda: check_reload(model.forms, model.pristine, case),
        }

    def _long_reference(self, oracle: OwnOracle, reference: Reference) -> SteppedLongReference:
        steps = min(self.drift_steps, self.model.forms.capacity or self.drift_steps)
        tokens = np.random.default_rng([self.seed, 1]).integers(0, self.model.forms.vocabulary, (1, steps))
        return SteppedLongReference(oracle, reference, tokens, _NOISE_SHARE * self.seconds)

    def _table(self, oracle: OwnOracle, reference: Reference) -> CallTable:
        tokens = call_tokens(self.model.card, np.random.default_rng([self.seed, 3]), self.tokens.shape[1])
        return oracle_table(oracle, reference, tokens)

    def _look_for_chance(self) -> tuple[str, ...]:
        """Modules that draw random numbers as they were given: no two runs are equal then."""
        forms, tokens = self.model.forms, self.tokens[:, :8]
        runs: tuple[Callable[[], FloatArray], ...] = (
            lambda: forward(forms, tokens),
            lambda: step_through(forms, tokens),
        )
        modules = modules_of(forms)
        found = tuple(dict.fromkeys(part for run in runs for part in random_parts(run, modules)))
        if found:
            remedy = "call .eval() before it is verified" if any(part.training for part in modules) else "switch it off"
            self.problems.append(f"{', '.join(found[:3])} draws random numbers: {remedy}")
        return found

    def _look_at_widths(self, oracle: OwnOracle) -> None:
        """Narrow numbers: they make float64 no oracle."""
        self._narrow = tuple(oracle.state_dtypes().items())
        halves = [operation for operation in (*oracle.narrow, *self._given()) if operation.dtype != "float32"]
        halves = list(dict.fromkeys(halves))
        if halves:
            self.problems.append(
                f"it computes in {halves[0].dtype} inside, whatever its own dtype: {some(halves)}; results are no "
                "better than that"
            )
        elif oracle.narrow:
            self.notes.append(
                f"it computes in float32 inside, in a float64 copy, too: {some(oracle.narrow)}; float64 agrees with "
                "itself only to 1e-8 then, and bounds between forms are those of float32"
            )

    def _given(self) -> tuple[NarrowOperation, ...]:
        """What the functions themselves compute in narrow numbers: autocast casts float32, and leaves float64."""
        forms, tokens = self.model.forms, self.tokens[:, :2]
        modules = modules_of(forms)
        whole = narrow_operations(lambda: forward(forms, tokens), modules)
        return (*whole, *narrow_operations(lambda: step_through(forms, tokens), modules))

    def _look_at_bounds(self, reference: Reference) -> None:
        """Bounds so wide that agreement within them says nothing."""
        bound = float(reference.bounds.logits[-1]) / reference.largest_logit
        if not bound <= LARGEST_BOUND:
            self.problems.append(
                f"step's logits may move by {bound:.0e} of the largest with rounding, or from one copy of the model to "
                "the next: agreement within that says nothing"
            )

    def _conclude(self) -> None:
        """What float64 told, in front of what float32 did."""
        verification = self.verification
        long = None if self._long is None else self._long.found
        found = [each for each in (self.agreement, self._prefill, long) if each is not None and not each.agrees]
        told = [each for each in found if each.level in self.levels]
        for each in found:
            if each not in told:  # whatever is checked, is checked of a model that is wrong
                self.problems.append(each.attribution().verdict)
        for each in reversed(told):
            verification.results.insert(self._place_of(each.level), each.result())
        levels = {each.level for each in told} | ({"split"} if self.agreement.at_fault == "step" else set())
        kept = [each for each in verification.attributions if each.level not in levels or each.runtime == "parallel"]
        own = [in_own_words(each, verification.results, self._chance) for each in kept]
        verification.attributions[:] = [each.attribution() for each in told] + own
        if not self.agreement.agrees:
            self.notes.append(NO_NUMBERS if self._stops else STEP_WITH_ITSELF)
        passed = {result.level for result in verification.results if result.passed}
        for fault in self.model.probe.faults:
            if fault.kind == "on the module" and "isolation" in passed:
                self.notes.append(f"{fault.tensor} changes with every run, outside the state: nothing depends on it")
        for name in self.model.probe.idle:
            self.notes.append(f"{name} is a whole number that no step has changed: should it count?")

    def _place_of(self, level: Level) -> int:
        """Where a result belongs among the others."""
        before = ALL_LEVELS[: ALL_LEVELS.index(level)]
        return sum(result.level in before for result in self.verification.results)


def at_least(tokens: IntArray, vocabulary: int, seed: int) -> IntArray:
    """Tokens with rows enough for levels that mix rows."""
    missing = _LEAST_ROWS - len(tokens)
    if missing <= 0:
        return tokens
    more = np.random.default_rng([seed, 2]).integers(0, vocabulary, (missing, tokens.shape[1]))
    return np.concatenate([tokens, more])
