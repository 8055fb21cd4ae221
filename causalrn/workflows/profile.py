"""Where a step's time goes in onnxruntime, node by node; needs onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import to_json
from causalrn.runtimes.bench.profiling import Profile, profile_step
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session_options import SessionOptions
from causalrn.workflows.arguments import text_argument, whole_number
from causalrn.workflows.bench_arguments import MOST_THREADS, Counts, Paths, folder_paths, whole_numbers
from causalrn.workflows.saving import JsonReport

PROFILE_VERSION = 1


@dataclass(frozen=True)
class FolderProfile:
    """A bundle's step at one depth."""

    folder: Path
    profile: Profile


@dataclass(frozen=True)
class ProfileResult(JsonReport):
    """Profiles of every bundle at every depth."""

    profiles: tuple[FolderProfile, ...]

    def to_json(self) -> dict[str, Any]:
        """The profiles as JSON values, with sums by block and role."""
        entries = [
            {
                "folder": str(each.folder),
                **to_json(each.profile),
                "nodes_us": each.profile.nodes_us,
                "by_block_and_role": each.profile.table(),
            }
            for each in self.profiles
        ]
        return {"report": "causalrn-profile", "version": PROFILE_VERSION, "profiles": entries}


def profile(
    folders: Paths, *, depth: Counts = (), threads: int = 1, provider: str = "cpu", progress: Progress = no_progress
) -> ProfileResult:
    """Profile steps of ONNX bundles by block and role.

    Args:
        folders: ONNX bundles.
        depth: tokens before a step; by default 128, or what a bundle has.
        threads: inside one operator, 1 to 256.
        provider: execution provider of onnxruntime.
        progress: is told of every profile.

    Raises:
        InputError: an argument that is wrong, a bundle for another runtime, or a depth that it does not have.
        BundleError: a folder that is no bundle.
        RuntimeUnavailableError: a provider that is not there.
    """
    paths, depths = folder_paths(folders), whole_numbers(depth, "depth", 0) or (None,)
    provider, threads = text_argument(provider, "provider"), whole_number(threads, "threads", 1, MOST_THREADS)
    session = SessionOptions(provider, threads=threads)
    found = []
    with progress("profiling", len(paths) * len(depths)) as advance:
        for path in paths:
            for count in depths:
                found.append(FolderProfile(path, profile_step(path, count, session)))
                advance(1, path.name)
    return ProfileResult(tuple(found))
