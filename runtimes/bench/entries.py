"""Who takes part in a benchmark: what folders stand for, and what their rows are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.targets import checkpoint_runtimes, find_target, runtime_row
from causalrn.errors import CausalRNError, InputError
from causalrn.runtimes.bench.candidates import Candidate, open_candidate
from causalrn.runtimes.session_options import SessionOptions
from causalrn.training.checkpoint_folder import is_checkpoint


@dataclass(frozen=True)
class Entry:
    """Somebody who takes part.

    Attributes:
        name: in the report.
        runtime: that runs it; empty where that cannot be known.
        threads: it has.
        factory: makes the candidate, in its own process: picklable.
    """

    name: str
    runtime: str
    threads: int
    factory: Callable[[], Candidate]


def find_entries(
    paths: Sequence[Path], runtimes: Sequence[str], threads: Sequence[int], provider: str = "cpu"
) -> list[Entry]:
    """Everybody that folders stand for: in every runtime of theirs, by number of threads.

    A folder that cannot be opened takes part, too: its rows give the reason.

    Args:
        paths: of checkpoint folders and bundles.
        runtimes: to choose from; empty for all.

    Raises:
        InputError: a folder is named twice, or `runtimes` run none of them.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise InputError("a folder is named twice: it would compete with itself")
    entries: list[Entry] = []
    possible = {path: _runtimes_of(path) for path in paths}
    for path, label in _labels_of(paths).items():
        for runtime in _chosen(possible[path], runtimes):
            has_threads = not runtime or runtime_row(runtime).has_threads
            for count in threads if has_threads else (1,):
                entry = _entry_of(path, label, runtime, count, provider)
                clash = any(entry.name == other.name for other in entries)
                entries.append(replace(entry, name=f"{path}: {entry.name}") if clash else entry)
    if not entries:
        known = sorted({name for names in possible.values() for name in names})
        raise InputError(f"`runtime` {', '.join(runtimes)} runs none of these: {', '.join(known)} would")
    return entries


def _chosen(possible: Sequence[str], runtimes: Sequence[str]) -> Sequence[str]:
    """Those of a folder's runtimes that were asked for; "" for a folder that cannot be opened."""
    return [name for name in possible if not runtimes or name in runtimes] if possible else [""]


def _entry_of(path: Path, label: str, runtime: str, threads: int, provider: str) -> Entry:
    has_providers = bool(runtime) and "provider" in runtime_row(runtime).options
    options = SessionOptions(provider if has_providers else "cpu", threads)
    where = runtime if not has_providers or provider == "cpu" else f"{runtime} on {provider}"
    words = [
        label,
        *([runtime] if runtime in checkpoint_runtimes() else []),
        *([f"{threads} threads"] if threads > 1 else []),
    ]
    return Entry(
        ", ".join(words),
        where,
        threads,
        partial(open_candidate, path, runtime_row(runtime) if runtime else None, options),
    )


def _runtimes_of(path: Path) -> tuple[str, ...]:
    """Runtimes that a folder runs in; none where it cannot be opened."""
    if not is_bundle(path) and is_checkpoint(path):
        return checkpoint_runtimes()
    try:
        return (find_target(Manifest.read(path).target, path).runtime,)
    except CausalRNError:
        return ()


def _labels_of(paths: Sequence[Path]) -> dict[Path, str]:
    """The last part of a path where that is enough, else all of it."""
    short = [path.name for path in paths]
    return {path: path.name if path.name and short.count(path.name) == 1 else str(path) for path in paths}
