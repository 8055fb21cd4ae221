"""One verification: which runtimes are checked at which levels, within a time budget, and what becomes of failures.

Needs no torch: the oracle and the runtimes that need it are handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.attribution import Comparators, attribute_failure
from causalrn.runtimes.parity.calls.level import check_calls
from causalrn.runtimes.parity.calls.table import CallTable, table_of_reference
from causalrn.runtimes.parity.determinism import check_determinism
from causalrn.runtimes.parity.drift import LongReference, check_drift
from causalrn.runtimes.parity.golden import Golden
from causalrn.runtimes.parity.guards.level import check_guards
from causalrn.runtimes.parity.kernels.level import KernelLevel
from causalrn.runtimes.parity.levels import (
    Case,
    check_layer,
    check_logits,
    check_recorded,
    check_resumed,
    check_split,
    check_state,
)
from causalrn.runtimes.parity.plan import CALLS_SHARE, DRIFT_SHARE, TASK_SHARE, Plan
from causalrn.runtimes.parity.reference import Reference
from causalrn.runtimes.parity.results import ALL_LEVELS, Attribution, Level, LevelResult
from causalrn.runtimes.parity.task_level import answer_all, judge_all, task_ways
from causalrn.runtimes.parity.traces import (
    Traces,
    trace_from_reference_states,
    trace_in_chunks,
    trace_in_steps,
    trace_resumed,
    trace_together,
    trace_whole,
)
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Array, IntArray

_ATTRIBUTED_STEPS = 512


@dataclass
class Verification:
    """Runtimes of one model, compared with one reference. :meth:`run` fills in what stands below.

    Attributes:
        runtimes: open sessions by name; "parallel" is the trained form, the others carry a state.
        case: the reference, and how results are judged.
        plan: which levels, and how long they may take.
        long: token ids [1, S] and reference logits for a long run.
        open_again: opens another session of a runtime with so many threads inside one operator.
        comparators: what failures are compared with.
        golden: where the reference came from a bundle.
        repeats_recorded: whether the runtime should repeat what another machine recorded.
        references: makes a reference for further token ids [B, T]; None where there is no checkpoint.
        kernels: the level of that name, for the bundle itself; None where there is none.
        provider: of onnxruntime; bit equality is claimed for the CPU's.
        table: makes what calls are compared with; None takes the reference's own sequences.
        opening: how people open a session, in Python; "" opens the folders in `sources`.
        further: further levels, and what checks them.
        sources: by runtime, the folder that people open it from; damaged copies of bundles have to be refused.
        progress: shows how far it is.
        results: one per level and runtime, in the order of :data:`ALL_LEVELS`.
        measured: what has no verdict, for there was nothing to compare it with; in the same order.
        attributions: for the first failure of each runtime, where it begins.
        not_checked: levels that were not reached in time, or not after a failure.
        impossible: levels at which there is nothing to look at.
        outputs: by "NAME.logits", the logits of each runtime step by step, float [B, T, V].
    """

    runtimes: Mapping[str, Session]
    case: Case
    plan: Plan
    long: LongReference
    open_again: Callable[[str, int | None], CellSession]
    comparators: Comparators
    golden: Golden | None = None
    repeats_recorded: bool = True
    references: Callable[[IntArray], Reference] | None = None
    kernels: KernelLevel | None = None
    provider: str = "cpu"
    table: Callable[[], CallTable] | None = None
    opening: str = ""
    further: Mapping[Level, Callable[[], Sequence[LevelResult]]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = no_progress
    results: list[LevelResult] = field(default_factory=list)
    measured: list[LevelResult] = field(default_factory=list)
    attributions: list[Attribution] = field(default_factory=list)
    not_checked: list[Level] = field(default_factory=list)
    impossible: list[Level] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)
    _stepped: dict[str, Traces] = field(default_factory=dict)

    def run(self) -> None:
        """Check level by level; what was found is in `results`, `attributions`, `not_checked` and `impossible`."""
        checks: dict[Level, Callable[[], object]] = {
            "logits": self._logits,
            "state": self._state,
            "split": self._split,
            "layer": self._layer,
            "calls": self._calls,
            "drift": self._drift,
            "task": self._task,
            "determinism": self._determinism,
            "kernels": self._kernels,
            "guards": self._guards,
        }
        wanted = [level for level in ALL_LEVELS if level in self.plan.levels]
        if self.kernels is not None and "kernels" in wanted and self._possible("kernels"):
            self.kernels.prepare()
        for level in wanted:
            if not self._possible(level):
                self.impossible.append(level)
                continue
            if self._left() <= 0:
                self.not_checked.append(level)
                continue
            checks.get(level, partial(self._further, level))()
            if self.plan.fail_fast and self.failed:
                self.not_checked += wanted[wanted.index(level) + 1 :]
                return

    def _possible(self, level: Level) -> bool:
        """Whether anything that is verified has what a level looks at."""
        if level == "task":
            return self.plan.examples is not None
        if level == "kernels":
            return self.kernels is not None and self.kernels.runtime in self.cells
        return bool(self.cells) or level in ("logits", "layer", *self.further)

    def _further(self, level: Level) -> None:
        with self.progress(level, 1):
            self.results += self.further[level]()

    @property
    def cells(self) -> dict[str, CellSession]:
        """The runtimes that carry a state."""
        return {name: session for name, session in self.runtimes.items() if isinstance(session, CellSession)}

    @property
    def failed(self) -> bool:
        """Whether anything has failed so far."""
        return not all(result.passed for result in self.results)

    def _case(self, name: str) -> Case:
        """A budget is for what was exported; the runtimes that it came from are judged by rounding."""
        if name == "parallel":
            return replace(self.case, reference=self.case.reference.of_parallel(), budget=None)
        return self.case if name not in checkpoint_runtimes() else replace(self.case, budget=None)

    def _left(self) -> float:
        return self.plan.deadline - time.monotonic()

    def _trace(self, name: str, *, probe: bool = False) -> Traces:
        """In steps, or whole where a runtime has no state."""
        session, reference = self.runtimes[name], self._case(name).reference
        trace = trace_in_steps if isinstance(session, CellSession) else trace_whole
        return trace(session, reference, probe=probe)

    def _in_steps(self, name: str) -> Traces:
        """Traced once; logits and states are both read from it."""
        if name not in self._stepped:
            with self.progress(f"steps, {name}", 1):
                self._stepped[name] = self._trace(name)
            self.outputs[f"{name}.logits"] = self._stepped[name].last_logits()[: len(self.case.reference.tokens)]
        return self._stepped[name]

    def _add(self, result: LevelResult, session: Session, traces: Traces) -> None:
        """Keep a result; the first failure of a runtime is traced to its beginning."""
        self.results.append(result)
        if not result.passed and not self._known(result):
            with self.progress(f"attributing {result.level}, {result.runtime}", 1):
                self.attributions.append(attribute_failure(result, session, traces, self.comparators))

    def _logits(self) -> None:
        for name, session in self.runtimes.items():
            traces = self._in_steps(name)
            self._add(check_logits(name, traces, self._case(name), session), session, traces)
            if not isinstance(session, CellSession):
                continue
            if self.case.vocabulary is not None:
                every = trace_together(session, self.case.vocabulary)
                case = replace(self._case(name), reference=self.case.vocabulary)
                ids = len(self.case.vocabulary.tokens)
                which = "all" if ids == session.card.config.vocabulary else f"{ids:,}"
                self._add(check_logits(f"{name}, {which} ids", every, case, session), session, every)
            if self.golden is not None and self.repeats_recorded:
                self.results.append(check_recorded(session, self.golden, self.case.budget))

    def _state(self) -> None:
        for name, session in self.cells.items():
            stepped, case = self._in_steps(name), self._case(name)
            from_reference = trace_from_reference_states(session, case.reference, to_end=case.budget is not None)
            traces = Traces((*stepped.traces, *from_reference.traces))
            self._add(check_state(name, stepped, from_reference, case, session), session, traces)
            if self.golden is not None:
                resumed = trace_resumed(session, self.golden)
                self.results.append(check_resumed(resumed, case, session))

    def _split(self) -> None:
        for name, session in self.cells.items():
            case = self._case(name)
            with self.progress(f"splits, {name}", 1):
                traces = trace_in_chunks(session, case.reference, case.seed)
            self._add(check_split(name, traces, case, session, self._in_steps(name)), session, traces)

    def _layer(self) -> None:
        for name, session in self.runtimes.items():
            with self.progress(f"layers, {name}", 1):
                traces = self._trace(name, probe=True)
            self._add(check_layer(name, traces, self._case(name), session), session, traces)

    def _calls(self) -> None:
        with self.progress("rows for calls", 1):
            table = table_of_reference(self.case.reference) if self.table is None else self.table()
        cases = {name: self._case(name) for name in self.cells}
        share = CALLS_SHARE * self._left(), self.plan.torch_seconds
        self.results += check_calls(
            self.cells, table, cases, self.open_again, self.sources, *share, self.opening, self.progress
        )

    def _drift(self) -> None:
        if not self.cells:
            return
        seconds = None if self.plan.whole_drift else DRIFT_SHARE * self._left()
        with self.progress("drift", self.long.tokens.shape[1]) as advance:
            cases = {name: self._case(name) for name in self.cells}
            found = check_drift(self.cells, self.long, cases, seconds=seconds, on_steps=advance)
        for result in found:
            self.results.append(result)
            self._attribute_drift(result, self.cells[result.runtime])

    def _attribute_drift(self, result: LevelResult, session: CellSession) -> None:
        """Attribute a long run that went wrong early enough for the oracle to follow step by step."""
        step = result.step
        if result.passed or step is None or step >= _ATTRIBUTED_STEPS or self.references is None or self._known(result):
            return
        reference = self.references(self.long.tokens[:, : step + 2])
        with self.progress(f"attributing {result.level}, {result.runtime}", 1):
            traces = trace_in_steps(session, reference)
            self.attributions.append(attribute_failure(result, session, traces, self.comparators))

    def _known(self, result: LevelResult) -> bool:
        """Whether a runtime's failure is attributed already, or judged by a budget and not to be."""
        runtime = result.runtime.partition(",")[0]
        attributed = {attribution.runtime.partition(",")[0] for attribution in self.attributions}
        return runtime in attributed or self._case(runtime).budget is not None

    def _task(self) -> None:
        task, examples = self.plan.task, self.plan.examples
        if task is None or examples is None:
            return
        ways = task_ways(self.runtimes, self.comparators.peers.get("parallel"))
        with self.progress(task.name, len(examples) * len(ways)) as advance:
            answers = answer_all(ways, task, examples, TASK_SHARE * self._left(), advance)
        budgets = {runtime: self._case(runtime.partition(",")[0]).budget for runtime in ways}
        results = judge_all(answers, budgets, self.plan.least_accuracy)
        for result in results:
            if result.runtime.partition(",")[0] in self.runtimes:
                self._keep(result, is_verdict=self.plan.least_accuracy is not None or bool(result.figures.before))

    def _keep(self, result: LevelResult, *, is_verdict: bool) -> None:
        """A result that compared nothing is shown, and no pass."""
        (self.results if is_verdict or not result.passed else self.measured).append(result)

    def _determinism(self) -> None:
        for name, session in self.cells.items():

            def again(threads: int | None, name: str = name) -> CellSession:
                return self.open_again(name, threads)

            with self.progress(f"determinism, {name}", 1):
                provider = "cpu" if name in checkpoint_runtimes() else self.provider
                result = check_determinism(name, session, self.case.reference, again, provider=provider)
            self._keep(result, is_verdict=bool(result.figures.claimed))

    def _kernels(self) -> None:
        assert self.kernels is not None
        self.results += self.kernels.check(self.progress)

    def _guards(self) -> None:
        for name in self.cells:
            is_bundle = name in self.sources and name not in checkpoint_runtimes()
            bundle = Path(self.sources[name]) if is_bundle else None
            with self.progress(f"guards, {name}", 1):
                again, tokens = partial(self.open_again, name, None), self.case.reference.tokens
                self.results.append(check_guards(name, tokens, again, bundle, self.plan.deadline))
