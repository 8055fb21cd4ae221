"""The level `kernels`: every kernel that a bundle has is run, against the reference and against the others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil
from msgspec.structs import replace

from causalrn.compiling.programs import ending_at, stop_running
from causalrn.errors import CausalRNError, GpuFailureError, NonFiniteError, NotExecutedError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.kernel_list import Kernel, KernelList, Program, WholeKernel
from causalrn.runtimes.parity.budgets import describe_judged
from causalrn.runtimes.parity.comparison import compare_run
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.kernels.answers import Answers, DeepRun, NoTimeError, ask, deep_tokens, run_deep
from causalrn.runtimes.parity.kernels.judging import (
    Differences,
    between_answers,
    between_runs,
    between_tails,
    broken_equality,
    far_apart,
    judge_answers,
    merge_differences,
)
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Run, growing_bound
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.snapshot import FloatArray, IntArray

_WHOLE_TOKENS, _AT_ONCE = 64, 17
_APART = 2.0  # two kernels may be off on either side


def thread_counts() -> tuple[int, ...]:
    """Two, three, and as many threads as the machine has processors: each is compared with one."""
    return tuple(sorted({2, 3, psutil.cpu_count() or 1} - {1}))


@dataclass
class KernelLevel:
    """The level for one bundle.

    Attributes:
        runtime: its name, for results.
        list_kernels: lists its kernels and programs.
        case: the reference, and how results are judged.
        deadline: of `time.monotonic`.
        ran: names of the kernels and programs that ran, and were right.
        executed: by file of the bundle, what executed it, and was right.
        failed: by file of the bundle, what executed it, and was not.
        threads: how many at a time were compared with one, where they share work.
        depth: positions of the longest run.
        most_sequences: of the largest batch that was compared.
    """

    runtime: str
    list_kernels: Callable[[], KernelList]
    case: Case
    deadline: float
    ran: list[str] = field(default_factory=list)
    executed: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    threads: tuple[int, ...] = ()
    depth: int = 0
    most_sequences: int = 1
    _listed: KernelList | None = None
    _builder: ThreadPoolExecutor | None = None
    _builder_threads: list[int] = field(default_factory=list)
    _default: DeepRun | None = None
    _families: dict[str, tuple[str, FloatArray, DeepRun]] = field(default_factory=dict)

    def prepare(self) -> None:
        """List the kernels, some time before they are checked: what has to be compiled is compiled meanwhile.

        What cannot be listed fails where it is checked.
        """
        with contextlib.suppress(CausalRNError):
            self._list()

    def _list(self) -> KernelList:
        if self._listed is None:
            with ending_at(self.deadline):
                self._listed = self.list_kernels()
            note = self._builder_threads
            self._builder = ThreadPoolExecutor(1, initializer=lambda: note.append(threading.get_ident()))
            for preparation in self._listed.preparations:
                self._builder.submit(preparation)
        return self._listed

    @property
    def missing(self) -> tuple[str, ...]:
        """What cannot run here, in words."""
        return () if self._listed is None else tuple(self._listed.missing)

    @property
    def equalities(self) -> frozenset[str]:
        """What is claimed to be equal bit for bit."""
        return frozenset() if self._listed is None else self._listed.equalities

    @property
    def shared_rows(self) -> int | None:
        """Rows from which on threads share work; None where they never do."""
        return None if self._listed is None else self._listed.shared_rows

    def check(self, progress: Progress = no_progress) -> list[LevelResult]:
        """Run everything."""
        try:
            listed, results = self._list(), []
        except (GpuFailureError, NotExecutedError):
            raise
        except CausalRNError as error:
            return [LevelResult("kernels", self.runtime, False, str(error))]
        groups: tuple[tuple[Sequence[Any], Callable[[str, Any], LevelResult]], ...] = (
            (listed.kernels, self._kernel),
            (listed.whole, self._whole),
            (listed.programs, self._program),
        )
        with progress("kernels", sum(len(group) for group, _ in groups)) as advance:
            for group, check in groups:
                for what in group:
                    results.append(self._attempt(what, check))
                    advance(1)
        return results

    def close(self) -> None:
        """Stop what was begun for it, compilers among it."""
        if self._builder is not None:
            self._builder.shutdown(wait=False, cancel_futures=True)
            stop_running(self._builder_threads)

    def _attempt(self, what: Kernel | WholeKernel | Program, check: Callable[[str, Any], LevelResult]) -> LevelResult:
        """Check one of them; what cannot be run is a failure here, for it was said that it could be."""
        title = f"{self.runtime}, {what.name}"
        if time.monotonic() > self.deadline:
            return LevelResult("kernels", title, False, str(NoTimeError()))
        try:
            with ending_at(self.deadline):
                result = check(title, what)
        except NonFiniteError:
            return LevelResult("kernels", title, False, "NaN or infinity came out")
        except CausalRNError as error:
            return LevelResult("kernels", title, False, str(error))
        if result.passed:
            self.ran.append(what.name)
        self._note(what.name, what.files, right=result.passed)
        return result

    def _note(self, name: str, files: Iterable[str], *, right: bool = True) -> None:
        noted = self.executed if right else self.failed
        for file in files:
            noted.setdefault(file, []).append(name)

    def _program(self, title: str, program: Program) -> LevelResult:
        return LevelResult("kernels", title, *program.run())

    def _kernel(self, title: str, kernel: Kernel) -> LevelResult:
        with kernel.open(1) as session:
            answers = self._ask(kernel, session)
            result = judge_answers(title, answers, self.case, session)
            tokens = deep_tokens(session.capacity, session.card.config.vocabulary, self.case.seed)
            deep = run_deep(session, tokens, self.deadline)
        self.depth = max(self.depth, tokens.shape[1])
        self.most_sequences = max(self.most_sequences, *(len(answer.rows) for answer in answers.all))
        differences = merge_differences(between_answers(answers), between_tails(deep))
        differences |= self._with_threads(kernel, tokens, deep)
        differences |= self._in_family(kernel, answers.alone, deep)
        claimed = [equality for equality in differences if equality in self.equalities]
        fault = result.summary or broken_equality(differences, claimed) or self._far_from_default(deep, tokens)
        if not fault:  # others are not compared with one that is wrong itself
            self._default = self._default or deep
            self._families.setdefault(kernel.family, (kernel.name, answers.alone, deep))
        words = fault or _count(len(answers.all), len(claimed))
        if not fault and (judged := result.figures.judged):
            words += f", {describe_judged(judged)}"
        return _with_differences(result, differences, claimed, words, passed=not fault)

    def _ask(self, kernel: Kernel, session: CellSession) -> Answers:
        reference, seed = self.case.reference, self.case.seed
        return ask(session, reference, seed, few_prefills=kernel.few_prefills, deadline=self.deadline)

    def _with_threads(self, kernel: Kernel, tokens: IntArray, single: DeepRun) -> Differences:
        if "threads" not in self.equalities or self.shared_rows is None or tokens.shape[1] <= self.shared_rows:
            return {}  # there is nothing that they share
        found: list[Differences] = []
        for threads in thread_counts():
            with kernel.open(threads) as session:
                several = run_deep(session, tokens, self.deadline)
            found.append(between_runs("threads", f"one thread and {threads}", single.values, several.values))
        self.threads = thread_counts()
        self._note(f"{kernel.name}, threads", kernel.thread_files)
        return merge_differences(*found)

    def _in_family(self, kernel: Kernel, alone: FloatArray, deep: DeepRun) -> Differences:
        if not kernel.family or kernel.family not in self._families:
            return {}
        name, first, deepest = self._families[kernel.family]
        return between_runs("kernels", f"this one and {name}", [first, *deepest.values], [alone, *deep.values])

    def _far_from_default(self, deep: DeepRun, tokens: IntArray) -> str:
        reference, budget = self.case.reference, self.case.budget
        bound = growing_bound(float(reference.bounds.logits[-1]), reference.steps, tokens.shape[1])
        allowed = _APART * bound if budget is None else budget.split * reference.largest_logit
        return "" if self._default is None else far_apart(deep, self._default, allowed)

    def _whole(self, title: str, kernel: WholeKernel) -> LevelResult:
        """A program: one sequence, token by token and in chunks."""
        reference = self.case.reference
        window = reference.rows(slice(len(reference.tokens) - 1, len(reference.tokens)))
        window = window.window(0, min(_WHOLE_TOKENS, reference.steps))
        stepped, chunked = (kernel.logits(window.tokens[0], count)[None] for count in (1, _AT_ONCE))
        differences = between_runs("prefill", f"steps and prefills of {_AT_ONCE}", [stepped], [chunked])
        if kernel.family and kernel.family in self._families:
            name, alone, _ = self._families[kernel.family]
            differences |= between_runs("kernels", f"this one and {name}", [alone[-1:, : window.steps]], [stepped])
        claimed = [equality for equality in differences if equality in self.equalities]
        deviations = [d for run in (stepped, chunked) for d in compare_run(Run(run, {}), window, ())]
        budget = self.case.budget
        wrong = [d for d in deviations if budget is not None and not d.error <= budget.wrong_value]
        fault = f"{wrong[0].tensor} off by {wrong[0].error:.0e}" if wrong else ""
        verdict = None if budget is None else not wrong
        result = LevelResult.from_deviations("kernels", title, deviations, Figures(), summary=fault, verdict=verdict)
        if budget is not None:
            result = replace(result, allowed=budget.wrong_value)
        broken = broken_equality(differences, claimed)
        words = result.summary if not result.passed else broken or _count(2, len(claimed))
        return _with_differences(result, differences, claimed, words, passed=result.passed and not broken)


def _count(calls: int, equalities: int) -> str:
    return f"{calls:,} calls" + (f", {equalities} equalities" if equalities else "")


def _with_differences(
    result: LevelResult, differences: Differences, claimed: Sequence[str], words: str, *, passed: bool
) -> LevelResult:
    """A result with what was compared bit for bit, and the outcome of both."""
    shown = {equality: difference for equality, (difference, _) in differences.items()}
    figures = replace(result.figures, differences=shown, claimed=tuple(claimed))
    return replace(result, passed=passed, summary=words, figures=figures)
