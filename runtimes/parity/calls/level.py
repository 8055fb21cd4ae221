"""The level `calls`: walks over everything a session offers, and for one that fails, the shortest that still does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.targets import checkpoint_runtimes, has_threads
from causalrn.bundle.tolerances import Budget
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.parity.calls.call import Call, Limits, tokens_read
from causalrn.runtimes.parity.calls.failures import Problem
from causalrn.runtimes.parity.calls.own_table import table_of_steps
from causalrn.runtimes.parity.calls.python_text import python_of
from causalrn.runtimes.parity.calls.replay import Replay
from causalrn.runtimes.parity.calls.shrinking import shrink
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.parity.calls.walks import edge_walks, random_walk, thread_walks
from causalrn.runtimes.parity.figures import CallsFigures, Figures, WalkFigures
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.results import LevelResult
from causalrn.runtimes.progress import Progress, no_progress

OpenAgain = Callable[[int | None], CellSession]
"""Opens another session over the same model, with so many threads; None takes the same number."""

THREADS = (2, 3)
RANDOM_WALKS = 40
_MOST_BATCH = 65
SHRINKING_SECONDS = 10.0


def check_calls(
    sessions: Mapping[str, CellSession],
    table: CallTable,
    cases: Mapping[str, Case],
    open_again: Callable[[str, int | None], CellSession],
    sources: Mapping[str, str],
    seconds: float,
    torch_seconds: float,
    opening: str = "",
    progress: Progress = no_progress,
) -> list[LevelResult]:
    """Walk through the calls of all sessions.

    Args:
        sessions, cases, sources: by runtime; the last are the folders that people open them from.
        open_again: opens another session of a runtime, with so many threads.
        opening: how people open a session, in Python; "" opens the folder that is named in `sources`.
        seconds: for all of them, of which each of PyTorch's takes at most `torch_seconds`.
    """
    started, results = time.monotonic(), []
    for done, (name, session) in enumerate(sessions.items()):
        left, torch = seconds - (time.monotonic() - started), name in checkpoint_runtimes()
        check = CallsCheck(
            name,
            session,
            table,
            partial(open_again, name),
            cases[name].seed,
            cases[name].budget,
            has_threads=has_threads(name) and not torch,
            opening=opening or f'open_session("{sources.get(name, "bundle")}", "{name}")',
        )
        share = left / (len(sessions) - done)
        with progress(f"calls, {name}", 1):
            results.append(check.run(min(share, torch_seconds) if torch else share))
        session.reset(1)
    return results


@dataclass
class CallsCheck:
    """One runtime's walks.

    Args:
        runtime: name of the results.
        session: makes the walks of the given number of threads.
        table: what calls read, and what is expected.
        open_again: opens sessions for other numbers of threads, and to shrink a failing walk on.
        seed: of the walks.
        budget: of a quantized form; None judges by rounding.
        has_threads: whether sessions are tried with more threads.
        opening: how people open the session, in Python: "open_session('bundle')".
    """

    runtime: str
    session: CellSession
    table: CallTable
    open_again: OpenAgain
    seed: int = 0
    budget: Budget | None = None
    has_threads: bool = False
    opening: str = 'open_session("bundle")'
    walks: int = 0
    calls: int = 0
    furthest: int = 0
    broken_off: int = 0
    batches: set[int] = field(default_factory=set)
    _errors: list[float] = field(default_factory=list)
    _worst: tuple[float, float] = (0.0, 1.0)

    def run(self, seconds: float, on_walk: Callable[[int], object] = lambda count: None) -> LevelResult:
        """Walk: all edges, then at random, as long as there is time for; the first walk at least.

        Args:
            seconds: that it may take, without shrinking.
            on_walk: called with 1 after each walk.
        """
        started = time.monotonic()
        deadline = started + seconds
        self.table = self.table.cut(self.session.capacity)
        if self.budget is not None:
            half = started + seconds / 2
            found = table_of_steps(self.runtime, self.session, self.table, self.budget, half)
            if isinstance(found, LevelResult):
                return found
            self.table = found
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(temporary_folder())
            return self._result(self._walk_all(folder, stack, deadline, on_walk))

    @property
    def limits(self) -> Limits:
        """What the session can take, as far as walks go."""
        batch = min(self.session.max_batch or _MOST_BATCH, _MOST_BATCH)
        return Limits(self.table.steps, self.session.capacity, batch, len(self.table.tokens))

    def _walks(self) -> Iterator[tuple[int | None, list[Call]]]:
        """Numbers of threads, None for the given one, and walks."""
        limits = self.limits
        for walk in edge_walks(limits, np.random.default_rng([self.seed, 0])):
            yield None, walk
        for threads in THREADS if self.has_threads else ():
            for walk in thread_walks(limits, np.random.default_rng([self.seed, threads])):
                yield threads, walk
        for number in range(RANDOM_WALKS):
            yield None, random_walk(limits, np.random.default_rng([self.seed, 100 + number]))

    def _walk_all(
        self, folder: Path, stack: contextlib.ExitStack, deadline: float, on_walk: Callable[[int], object]
    ) -> WalkFigures | None:
        sessions: dict[int | None, CellSession] = {None: self.session}
        peer = _Lazily(lambda: stack.enter_context(self.open_again(None)))
        history: list[Call] = []
        before: int | None = None
        for threads, walk in self._walks():
            if self.walks and time.monotonic() > deadline:
                break
            if threads not in sessions:
                sessions[threads] = stack.enter_context(self.open_again(threads))
            history = history if threads == before else []
            before = threads
            replay = self._replay(sessions[threads], folder, peer)
            problem = replay.run_all(walk)
            self._note(replay)
            on_walk(1)
            history = [*history, *replay.taken]
            if problem is not None:
                return self._shrunk(problem, [replay.taken, history], threads, folder, peer)
        return None

    def _replay(self, session: CellSession, folder: Path, peer: Callable[[], CellSession]) -> Replay:
        allowed = None if self.budget is None else self.budget.wrong_value
        return Replay(session, self.table, self.limits, folder, peer, allowed)

    def _note(self, replay: Replay) -> None:
        self.walks += 1
        self.calls += len(replay.taken)
        self.furthest = max(self.furthest, replay.furthest)
        self.broken_off += replay.broken_off
        self.batches |= {1, *(len(call.rows) for call in replay.taken if call.kind == "reset")}
        self._errors += replay.errors
        if replay.worst[0] * self._worst[1] > self._worst[0] * replay.worst[1]:
            self._worst = replay.worst

    def _shrunk(
        self,
        problem: Problem,
        walks: Sequence[list[Call]],
        threads: int | None,
        folder: Path,
        peer: Callable[[], CellSession],
    ) -> WalkFigures:
        """The walk alone, or where it does not fail alone, all calls of this session; as short as possible."""
        found = [problem]

        def fails(calls: Sequence[Call]) -> bool:
            with self.open_again(threads) as fresh:
                again = self._replay(fresh, folder, peer).run_all(calls)
            if again is not None:
                found.append(again)
            return again is not None

        deadline = time.monotonic() + SHRINKING_SECONDS
        calls = next((calls for calls in walks if fails(calls)), None)
        if calls is None:
            return self._figures(walks[0], problem, threads, repeats=False)
        shortest = shrink(calls, self.limits, fails, deadline)
        fails(shortest)  # what it says, it says of this walk
        self._simplify_tokens(shortest, fails, deadline)
        return self._figures(shortest, found[-1], threads, repeats=True)

    def _simplify_tokens(self, calls: Sequence[Call], fails: Callable[[Sequence[Call]], bool], deadline: float) -> None:
        """Zeros in place of tokens, everywhere or in part, where the oracle can tell what is expected of them."""
        again = self.table.again
        if again is None:
            return
        rows, steps = tokens_read(calls, self.limits)
        halves = [(0, steps), (0, steps // 2), (steps // 2, steps), (0, max(0, steps - 1)), (0, max(0, steps - 2))]
        for start, end in halves:
            if start == end or time.monotonic() > deadline:
                continue
            tokens, table = self.table.tokens.copy(), self.table
            tokens[list(rows), start:end] = 0
            self.table = again(tokens)
            if not fails(calls):
                self.table = table
            elif end - start == steps:
                return
        fails(calls)

    def _figures(self, calls: Sequence[Call], problem: Problem, threads: int | None, *, repeats: bool) -> WalkFigures:
        opening = self.opening
        if threads is not None:
            opening = f"{opening.removesuffix(')')}, threads={threads})"
        return WalkFigures(
            problem.words,
            tuple(call.describe() for call in calls),
            python_of(calls, self.table, self.limits, opening, problem.words),
            threads,
            repeats,
            problem.error,
            problem.allowed,
            problem.position,
            problem.tensor,
        )

    def _result(self, failing: WalkFigures | None) -> LevelResult:
        summary, good = f"{self.calls:,} calls to position {self.furthest:,}", failing is None
        error, allowed = self._worst
        if failing is not None:
            summary = f"{'; '.join(failing.calls[-4:])}: {failing.problem}"
            error, allowed = failing.error, failing.allowed  # type: ignore[assignment]
        elif self.budget is not None and self._errors:
            typical = float(np.median(self._errors))
            good = typical <= self.budget.between_calls.typical
            summary = summary if good else f"calls differ from steps by {typical:.0e} typically"
        batches = tuple(sorted(self.batches))
        figures = CallsFigures(
            self.seed, self.walks, self.calls, self.furthest, batches, failing, broken_off=self.broken_off
        )
        return LevelResult(
            "calls",
            self.runtime,
            good,
            summary,
            error,
            allowed,
            None if failing is None else failing.position,
            tensor=None if failing is None else failing.tensor or None,
            figures=Figures(steps=self.furthest, calls=figures),
        )


class _Lazily:
    """A session that is opened when it is first asked for."""

    def __init__(self, make: Callable[[], CellSession]) -> None:
        self._make = make
        self._session: CellSession | None = None

    def __call__(self) -> CellSession:
        if self._session is None:
            self._session = self._make()
        return self._session
