"""The level `kernels`: every kernel that a bundle has is run, against the reference and against the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psutil
from msgspec.structs import replace

from causalrn.bundle.tolerances import WRONG_VALUE
from causalrn.errors import CausalRNError, NonFiniteError
from causalrn.runtimes.kernel_list import Kernel, KernelList, WholeKernel
from causalrn.runtimes.parity.comparison import compare_run
from causalrn.runtimes.parity.drift import growing_bound
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.kernel_calls import DeepRun, ask, deep_tokens, run_deep
from causalrn.runtimes.parity.kernel_judging import (
    Differences,
    between_calls,
    between_runs,
    between_tails,
    broken_equality,
    far_apart,
    judge_calls,
    merge_differences,
)
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Run
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.snapshot import FloatArray, IntArray

_What = TypeVar("_What")
_WHOLE_TOKENS, _AT_ONCE = 64, 17
_APART = 2.0  # two kernels may be off on either side
_NO_TIME = "no time was left: give more with `time_budget`"


def thread_counts() -> tuple[int, ...]:
    """Two, three, and as many threads as the machine has processors: each is compared with one."""
    return tuple(sorted({2, 3, psutil.cpu_count() or 1} - {1}))


@dataclass
class KernelLevel:
    """The level for one bundle.

    Attributes:
        runtime: its name, for results.
        listed: its kernels and programs.
        case: the reference, and how results are judged.
        left: gives the seconds that are left.
        ran: names of the kernels and programs that ran, and were right.
        executed: by file of the bundle, what executed it.
        threads: how many at a time were compared with one.
        depth: positions of the longest run.
    """

    runtime: str
    listed: KernelList
    case: Case
    left: Callable[[], float]
    ran: list[str] = field(default_factory=list)
    executed: dict[str, list[str]] = field(default_factory=dict)
    threads: tuple[int, ...] = ()
    depth: int = 0
    _default: DeepRun | None = None
    _families: dict[str, tuple[str, FloatArray, DeepRun]] = field(default_factory=dict)

    def check(self) -> list[LevelResult]:
        """Run everything."""
        results = [self._attempt(kernel.name, kernel.files, self._kernel, kernel) for kernel in self.listed.kernels]
        results += [self._attempt(kernel.name, kernel.files, self._whole, kernel) for kernel in self.listed.whole]
        for program in self.listed.programs:
            results.append(self._attempt(program.name, program.files, self._program, program.run))
        return results

    def _attempt(
        self, name: str, files: Iterable[str], check: Callable[[str, _What], LevelResult], what: _What
    ) -> LevelResult:
        """Check one of them; what cannot be run is a failure here, for it was said that it could be."""
        title = f"{self.runtime}, {name}"
        try:
            result = check(title, what) if self.left() > 0 else LevelResult("kernels", title, False, _NO_TIME)
        except NonFiniteError:
            return LevelResult("kernels", title, False, "NaN or infinity came out")
        except CausalRNError as error:
            return LevelResult("kernels", title, False, str(error))
        if result.passed:
            self.ran.append(name)
            self._note(name, files)
        return result

    def _note(self, name: str, files: Iterable[str]) -> None:
        for file in files:
            self.executed.setdefault(file, []).append(name)

    def _program(self, title: str, run: Callable[[], tuple[bool, str]]) -> LevelResult:
        return LevelResult("kernels", title, *run())

    def _kernel(self, title: str, kernel: Kernel) -> LevelResult:
        with kernel.open(1) as session:
            answers = ask(session, self.case.reference, self.case.seed, few_prefills=kernel.few_prefills)
            result = judge_calls(title, answers.calls, self.case, session)
            tokens = deep_tokens(session.capacity, session.card.config.vocabulary, self.case.seed)
            deep = run_deep(session, tokens)
        self.depth = max(self.depth, tokens.shape[1])
        differences = merge_differences(between_calls(answers), between_tails(deep))
        differences |= self._with_threads(kernel, tokens, deep)
        differences |= self._in_family(kernel, answers.alone, deep)
        self._default = self._default or deep
        claimed = [equality for equality in differences if equality in self.listed.equalities]
        fault = result.summary or broken_equality(differences, claimed) or self._far_from_default(deep, tokens)
        words = fault or _count(len(answers.calls), len(claimed))
        return _with_differences(result, differences, claimed, words, passed=not fault)

    def _with_threads(self, kernel: Kernel, tokens: IntArray, single: DeepRun) -> Differences:
        if "threads" not in self.listed.equalities:
            return {}
        found: list[Differences] = []
        for threads in thread_counts():
            with kernel.open(threads) as session:
                several = run_deep(session, tokens)
            found.append(between_runs("threads", f"one thread and {threads}", single.values, several.values))
        self.threads = thread_counts()
        if tokens.shape[1] > self.listed.shared_rows:
            self._note(f"{kernel.name}, threads", kernel.thread_files)
        return merge_differences(*found)

    def _in_family(self, kernel: Kernel, alone: FloatArray, deep: DeepRun) -> Differences:
        if not kernel.family or "kernels" not in self.listed.equalities:
            return {}
        if kernel.family not in self._families:
            self._families[kernel.family] = kernel.name, alone, deep
            return {}
        name, first, deepest = self._families[kernel.family]
        return between_runs("kernels", f"this one and {name}", [first, *deepest.values], [alone, *deep.values])

    def _far_from_default(self, deep: DeepRun, tokens: IntArray) -> str:
        reference, budget = self.case.reference, self.case.budget
        bound = growing_bound(float(reference.bounds.logits[-1]), reference.steps, tokens.shape[1])
        allowed = _APART * bound if budget is None else budget.repeat * reference.largest_logit
        return "" if self._default is None else far_apart(deep, self._default, allowed)

    def _whole(self, title: str, kernel: WholeKernel) -> LevelResult:
        """A program: one sequence, token by token and in chunks."""
        reference = self.case.reference
        window = reference.rows(slice(len(reference.tokens) - 1, len(reference.tokens)))
        window = window.window(0, min(_WHOLE_TOKENS, reference.steps))
        stepped, chunked = (kernel.logits(window.tokens[0], count)[None] for count in (1, _AT_ONCE))
        differences = between_runs("prefill", f"steps and prefills of {_AT_ONCE}", [stepped], [chunked])
        if kernel.family in self._families:
            name, alone, _ = self._families[kernel.family]
            differences |= between_runs("kernels", f"this one and {name}", [alone[-1:, : window.steps]], [stepped])
        claimed = [equality for equality in differences if equality in self.listed.equalities]
        deviations = [d for run in (stepped, chunked) for d in compare_run(Run(run, {}), window, ())]
        verdict = None if self.case.budget is None else all(d.error <= WRONG_VALUE for d in deviations)
        result = LevelResult.from_deviations("kernels", title, deviations, Figures(), summary="", verdict=verdict)
        fault = result.summary if not result.passed else broken_equality(differences, claimed)
        return _with_differences(result, differences, claimed, fault or _count(2, len(claimed)), passed=not fault)


def _count(calls: int, equalities: int) -> str:
    return f"{calls:,} calls" + (f", {equalities} bit for bit" if equalities else "")


def _with_differences(
    result: LevelResult, differences: Differences, claimed: Sequence[str], words: str, *, passed: bool
) -> LevelResult:
    """A result with what was compared bit for bit, and the outcome of both."""
    shown = {equality: difference for equality, (difference, _) in differences.items()}
    figures = replace(result.figures, differences=shown, claimed=tuple(claimed))
    return replace(result, passed=passed, summary=words, figures=figures)
