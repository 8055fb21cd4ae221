"""What a verification executed, file by file of the bundle, and what it says nothing of, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.manifest import MANIFEST_NAME
from causalrn.runtimes.opening import target_of
from causalrn.runtimes.parity.entries import ReportEntry
from causalrn.runtimes.parity.golden import GOLDEN_NAME
from causalrn.runtimes.parity.kernels.calls import BATCHES
from causalrn.runtimes.parity.results import LEVELS
from causalrn.runtimes.parity.verification import Verification

FileUse = Literal["executed", "read", "hashed only"]
_SPLIT_BATCHES = 5  # of the level split


class FileCoverage(ReportEntry, frozen=True):
    """What became of one file of the bundle.

    Attributes:
        name: of the file.
        use: executed, read (what is compared with, or says what there is), or only hashed.
        by: what executed it: kernels and programs of the level kernels, or else the runtime.
    """

    name: str
    use: FileUse
    by: tuple[str, ...] = ()


class Coverage(ReportEntry, frozen=True):
    """What a verification covers.

    Attributes:
        files: all of the bundle.
        kernels: kernels and programs that ran, and were right.
        not_executed: those that could not run here, with the reason, in words.
        not_covered: everything else that it says nothing of, in words.
    """

    files: tuple[FileCoverage, ...]
    kernels: tuple[str, ...]
    not_executed: tuple[str, ...]
    not_covered: tuple[str, ...]

    @property
    def hashed_only(self) -> tuple[str, ...]:
        """Names of files that nothing read."""
        return tuple(file.name for file in self.files if file.use == "hashed only")


def coverage_of(bundle: Bundle, verification: Verification) -> Coverage:
    """What a verification that has run covers."""
    level = verification.kernels
    executed = _executed(verification)
    ran = () if level is None else tuple(level.ran)
    read = {MANIFEST_NAME} | ({GOLDEN_NAME} if verification.golden is not None or "verify.mjs" in ran else set())
    files = (
        FileCoverage(name, "executed", tuple(executed[name]))
        if name in executed
        else FileCoverage(name, "read" if name in read else "hashed only")
        for name in (MANIFEST_NAME, *bundle.manifest.files)
    )
    missing = () if level is None else level.missing
    return Coverage(tuple(files), ran, missing, tuple(_not_covered(bundle, verification)))


def _executed(verification: Verification) -> Mapping[str, Sequence[str]]:
    """By file, what executed it: other levels run what the session loads."""
    level = verification.kernels
    found = {} if level is None else {name: list(by) for name, by in level.executed.items()}
    for runtime, session in verification.cells.items():
        for name in session.executed_files:
            found.setdefault(name, []).extend([] if found.get(name) else [runtime])
    return found


def _not_covered(bundle: Bundle, verification: Verification) -> Iterator[str]:
    reached = {result.level for result in verification.results}
    if missing := [name for name in LEVELS if name not in reached]:
        yield f"levels that were not checked: {', '.join(missing)}"
    row, level, state = target_of(bundle), verification.kernels, bundle.manifest.state
    checked = level is not None and bool(level.ran)
    longest, capacity = verification.longest_run, state.capacity
    if capacity is None or longest < capacity:
        end = "" if capacity is None else f", to the capacity of {capacity:,}"
        against_itself = max(longest, level.depth if level is not None else 0)
        more = f" (to {against_itself:,} kernels were compared with each other)" if against_itself > longest else ""
        yield f"positions beyond {longest:,}{end}, against the reference{more}"
    if all(session.max_batch != 1 for name, session in verification.cells.items() if name == row.runtime):
        yield f"batches of more than {max(BATCHES) if checked else _SPLIT_BATCHES} sequences"
    if "provider" in row.options:
        yield f"execution providers other than {verification.provider}"
    yield from _threads_not_covered(verification)
    yield "processors of other families, and other versions of the runtime"


def _threads_not_covered(verification: Verification) -> Iterator[str]:
    level = verification.kernels
    if level is None or "threads" not in level.equalities:
        return
    counts = ", ".join(str(count) for count in (1, *level.threads))
    yield f"numbers of threads other than {counts}" if level.threads else "more than one thread"
    if level.depth <= level.shared_rows:
        yield f"threads that share work: they do from {level.shared_rows:,} rows on, which no run here had"
