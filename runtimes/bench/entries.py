"""Who takes part in a benchmark: what folders stand for, and what their rows are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.targets import checkpoint_runtimes, find_target, runtime_row, runtimes_of_target
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
    """Everybody that folders stand for: a checkpoint in both forms, a bundle in its default runtime, by threads.

    A folder that cannot be opened takes part, too: its rows give the reason.

    Args:
        paths: of checkpoint folders and bundles.
        runtimes: to choose from, a bundle's other runtimes among them; empty for the usual ones.

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
    if not possible:
        return [""]
    usual = possible if possible == checkpoint_runtimes() else possible[:1]
    return [name for name in possible if name in (runtimes or usual)]


def _entry_of(path: Path, label: str, runtime: str, threads: int, provider: str) -> Entry:
    has_providers = bool(runtime) and "provider" in runtime_row(runtime).options
    options = SessionOptions(provider if has_providers else "cpu", threads)
    where = runtime if not has_providers or provider == "cpu" else f"{runtime} on {provider}"
    details = [
        *([runtime] if runtime in checkpoint_runtimes() or _is_further(runtime) else []),
        *([f"{threads} threads"] if threads > 1 else []),
    ]
    return Entry(
        f"{label} ({', '.join(details)})" if details else label,  # sentences and legends list names, with commas
        where,
        threads,
        partial(open_candidate, path, runtime_row(runtime) if runtime else None, options),
    )


def _is_further(runtime: str) -> bool:
    """Whether it is not the default of the bundles that it opens."""
    return bool(runtime) and runtimes_of_target(runtime_row(runtime).name)[:1] != (runtime,)


def _runtimes_of(path: Path) -> tuple[str, ...]:
    """Runtimes that a folder runs in; none where it cannot be opened."""
    if not is_bundle(path) and is_checkpoint(path):
        return checkpoint_runtimes()
    try:
        return runtimes_of_target(find_target(Manifest.read(path).target, path).name)
    except CausalRNError:
        return ()


def _labels_of(paths: Sequence[Path]) -> dict[Path, str]:
    """The last part of a path where that is enough, else all of it."""
    short = [path.name for path in paths]
    return {path: path.name if path.name and short.count(path.name) == 1 else str(path) for path in paths}
