"""What a verification executed, file by file of the bundle, and what it says nothing of, in words."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import UNSET

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.manifest import MANIFEST_NAME
from causalrn.bundle.targets import runtimes_of_target
from causalrn.runtimes.opening import target_of
from causalrn.runtimes.parity.entries import ReportEntry
from causalrn.runtimes.parity.figures import largest_set
from causalrn.runtimes.parity.golden import GOLDEN_NAME
from causalrn.runtimes.parity.results import LEVELS, REFERENCE_LEVELS, LevelResult
from causalrn.runtimes.parity.traces import BATCHES
from causalrn.runtimes.parity.verification import Verification

FileUse = Literal["executed", "executed, failed", "executed, not compared", "read", "hashed only"]


class FileCoverage(ReportEntry, frozen=True):
    """What became of one file of the bundle.

    Attributes:
        name: of the file.
        use: executed (what came out was right), executed but failed, executed but compared with nothing, read (what is
            compared with, or says what there is), or only hashed.
        by: what executed it: kernels and programs of the level kernels, or where none of them did, the runtimes; those
            that were right where any was.
    """

    name: str
    use: FileUse
    by: tuple[str, ...] = ()


class Coverage(ReportEntry, frozen=True):
    """What a verification covers.

    Attributes:
        files: all of the bundle, those of a bundle in it among them.
        kernels: kernels and programs that ran, and were right.
        not_executed: those that could not run here, with the reason, in words.
        not_covered: everything else that it says nothing of, in words.
    """

    files: tuple[FileCoverage, ...]
    kernels: tuple[str, ...]
    not_executed: tuple[str, ...]
    not_covered: tuple[str, ...]

    def files_of(self, use: FileUse) -> tuple[str, ...]:
        """Names of the files of which this became."""
        return tuple(file.name for file in self.files if file.use == use)


def coverage_of(bundle: Bundle, verification: Verification) -> Coverage:
    """What a verification that has run covers."""
    level = verification.kernels
    executed = _executed(verification)
    ran = () if level is None else tuple(level.ran)
    read = {MANIFEST_NAME} | ({GOLDEN_NAME} if verification.golden is not None or "verify.mjs" in ran else set())
    files = (
        executed.get(name) or FileCoverage(name, "read" if name in read else "hashed only") for name in bundle.names
    )
    missing = () if level is None else level.missing
    return Coverage(tuple(files), ran, missing, tuple(_not_covered(bundle, verification)))


def longest_run(verification: Verification) -> int:
    """Steps of the longest sequence that was compared with the reference, at some positions at least; 0 for none."""
    return max(_followed(verification), largest_set(result.figures.steps for result in verification.results))


def _followed(verification: Verification) -> int:
    """The same where every position was compared: golden vectors know some late ones only, which calls read."""
    late, compared = None if verification.golden is None else verification.golden.late, _compared(verification)
    some = late is not None and len(late.positions) < late.tokens.shape[1]
    runs = [result.figures.steps for result in compared if not (some and result.level == "calls")]
    whole = any(result.level not in ("calls", "drift") for result in compared)
    return max(verification.case.reference.steps if whole else 0, largest_set(runs))


def _compared(verification: Verification) -> list[LevelResult]:
    return [result for result in verification.results if result.level in REFERENCE_LEVELS]


def _executed(verification: Verification) -> Mapping[str, FileCoverage]:
    """By file, what executed it. The level kernels says it first: the other levels run what the session has loaded."""
    level, of_cells = verification.kernels, [one for one in verification.results if one.level != "kernels"]
    compared = [result for result in of_cells if result.level in REFERENCE_LEVELS]
    right = {result.subject for result in compared if result.passed}
    failed = {result.subject for result in compared} - right
    others = {result.subject for result in of_cells} - right - failed
    ways: tuple[tuple[FileUse, Mapping[str, Sequence[str]]], ...] = (
        ("executed", {} if level is None else level.executed),
        ("executed", _loaded_by(verification, right)),
        ("executed, failed", {} if level is None else level.failed),
        ("executed, failed", _loaded_by(verification, failed)),
        ("executed, not compared", _loaded_by(verification, others)),
    )
    found: dict[str, FileCoverage] = {}
    for use, files in ways:
        for name, by in files.items():
            found.setdefault(name, FileCoverage(name, use, tuple(by)))
    return found


def _loaded_by(verification: Verification, runtimes: Container[str]) -> Mapping[str, Sequence[str]]:
    """By file, those of the runtimes whose sessions have loaded it."""
    found: dict[str, list[str]] = {}
    for runtime, session in verification.cells.items():
        for name in session.executed_files if runtime in runtimes else ():
            found.setdefault(name, []).append(runtime)
    return found


def _not_covered(bundle: Bundle, verification: Verification) -> Iterator[str]:
    possible = runtimes_of_target(target_of(bundle).name)
    reached = {result.level for result in verification.results}
    if missing := [name for name in LEVELS if name not in reached]:
        yield f"levels that were not checked: {', '.join(missing)}"
    row = target_of(bundle, next((name for name in possible if name in verification.cells), None))
    if not _compared(verification):
        yield "what comes out: nothing was compared with the reference"
    else:
        yield from _positions_not_covered(verification, bundle.manifest.state.capacity)
        yield from _batches_not_covered(verification, row.runtime)
    if "provider" in row.options:
        yield f"execution providers other than {verification.provider}"
    yield from _threads_not_covered(verification)
    yield "processors of other families, and other versions of the runtime"


def _positions_not_covered(verification: Verification, capacity: int | None) -> Iterator[str]:
    longest, followed, level = longest_run(verification), _followed(verification), verification.kernels
    if followed < longest:
        yield f"most positions from {followed:,} to {longest:,}: golden vectors know some of them only"
    if capacity is None or longest < capacity:
        end = "" if capacity is None else f", to the capacity of {capacity:,}"
        against_itself = max(longest, level.depth if level is not None else 0)
        more = f" (to {against_itself:,} kernels were compared with each other)" if against_itself > longest else ""
        yield f"positions beyond {longest:,}{end}, against the reference{more}"


def _batches_not_covered(verification: Verification, runtime: str) -> Iterator[str]:
    session = verification.cells.get(runtime)
    limit = None if session is None else session.max_batch
    most = max((_most_sequences(result, verification) for result in _compared(verification)), default=1)
    if limit is None or most < limit:
        yield f"batches of more than {most:,} sequence{'' if most == 1 else 's'}"


def _most_sequences(result: LevelResult, verification: Verification) -> int:
    """Of the largest batch that a level compares."""
    level, calls = verification.kernels, result.figures.calls
    if result.level == "calls":
        return 1 if calls is UNSET else max(calls.batches, default=1)
    if result.level == "kernels":
        return 1 if level is None else level.most_sequences
    if result.level == "drift":
        return 1
    return max(BATCHES) if result.level == "split" else max(2, len(verification.case.reference.tokens))


def _threads_not_covered(verification: Verification) -> Iterator[str]:
    level = verification.kernels
    if level is None or "threads" not in level.equalities:
        return
    if level.shared_rows is None:
        yield "more than one thread: with this model they share no work"
    elif level.threads:
        yield f"numbers of threads other than {', '.join(str(count) for count in (1, *level.threads))}"
    else:
        yield f"threads that share work: they do from {level.shared_rows:,} rows on, which no run here had"
