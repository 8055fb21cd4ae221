"""New hashes for a bundle whose graphs were changed on purpose, if it still is the model that was trained."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import CERTIFICATE_NAME, WEIGHTS_FILE, as_path, sha256_file
from causalrn.bundle.disk.folders import written_folder
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.manifest import BUNDLE_MARKER, MANIFEST_NAME, ORT_SUFFIX, Graph, Manifest
from causalrn.bundle.resealing import ADDED, CHANGED, REMOVED, Resealing
from causalrn.errors import BundleError, InputError
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.checkpoint import Checkpoint, load_checkpoint
from causalrn.workflows.arguments import PathLike
from causalrn.workflows.changed_graphs import check_size, external_files, node_changes, restore_entries, value_names
from causalrn.workflows.export_targets import record_golden
from causalrn.workflows.verify import verify
from causalrn.workflows.verify_result import VerifyResult


@dataclass(frozen=True)
class ResealResult:
    """A reseal.

    Attributes:
        verification: of the changed bundle; nothing was written unless it passed.
        resealing: what had changed, as the manifest now says.
        bundle: the bundle with its new hashes; None where the verification did not pass.
    """

    verification: VerifyResult
    resealing: Resealing
    bundle: Bundle | None


def reseal(
    bundle: PathLike,
    *,
    checkpoint: PathLike,
    tool: str = "",
    samples: int = 1000,
    seed: int = 0,
    time_budget: float = 300.0,
    progress: Progress = no_progress,
) -> ResealResult:
    """Verify a bundle whose graphs other tools have changed, and give it new hashes if it passes.

    Graphs may have been simplified, optimized or edited, their weights moved inside or into another file, or converted
    to onnxruntime's own format (`step.ort` in place of `step.onnx`). Everything else has to be as it was. All levels of
    :func:`causalrn.verify` run on a copy; golden vectors are recorded anew from what passed.

    Args:
        bundle: an ONNX bundle; changed in place, and only if all is well.
        checkpoint: checkpoint folder that it was exported from.
        tool: what changed it, for the record: "onnxslim 0.1.90".
        samples, seed, time_budget: of the verification.
        progress: shows progress.

    Raises:
        InputError: no ONNX bundle, a bundle in which nothing has changed, or one that holds files that no graph reads.
        BundleError: something else than graphs and weights changed, or a graph is missing or cannot be read.
        CheckpointError: the checkpoint cannot be read.

    Example:
        >>> reseal("bundle", checkpoint="run", tool="onnxslim 0.1.90").bundle is not None  # doctest: +SKIP
        True
    """
    path, run = as_path(bundle, "bundle"), as_path(checkpoint, "checkpoint")
    if not isinstance(tool, str):
        raise InputError(f"`tool` is {tool!r}: it must be a text, e.g. 'onnxslim 0.1.90'")
    manifest = Manifest.read(path)
    if manifest.target != "onnx" or manifest.state.is_own:
        what = f"for {manifest.target}" if manifest.target != "onnx" else "of a model of your own"
        raise InputError(f"{path}: a bundle {what}: `reseal` takes ONNX bundles of RUNs; export it again instead")
    graphs = _present_graphs(path, manifest)
    files = _changed_files(path, manifest, graphs)
    trained = load_checkpoint(run)
    with temporary_folder() as temporary:
        copy = temporary / (path.resolve().name or "bundle")
        with progress("reseal", 2) as advance:
            advance(0, "golden vectors")
            resealing = _seal_copy(path, copy, manifest, graphs, files, trained, tool)
            advance(1)
        verified = verify(copy, checkpoint=run, samples=samples, seed=seed, time_budget=time_budget, progress=progress)
        verified = _named(verified, path)
        if not verified.passed:
            return ResealResult(verified, resealing, None)
        with written_folder(path, BUNDLE_MARKER, overwrite=True) as folder:
            shutil.copytree(copy, folder, dirs_exist_ok=True)
    return ResealResult(verified, resealing, Bundle.open(path))


def _named(verified: VerifyResult, path: Path) -> VerifyResult:
    """The verification under the bundle's own path, not the copy's."""
    report = verified.report
    bundle = msgspec.structs.replace(report.bundle, path=str(path))
    return dataclasses.replace(verified, report=msgspec.structs.replace(report, bundle=bundle))


def _present_graphs(path: Path, manifest: Manifest) -> dict[str, Graph]:
    """The graphs under the names of the files that are there: one in onnxruntime's format may stand for another."""
    graphs = {}
    for name, graph in manifest.graphs.items():
        converted = Path(graph.file).with_suffix(ORT_SUFFIX).name
        file = converted if not (path / graph.file).exists() and (path / converted).exists() else graph.file
        if not (path / file).is_file():
            raise BundleError(f"{path / file}: missing from the bundle: copy it again, or export again")
        graphs[name] = dataclasses.replace(graph, file=file)
    return graphs


def _changed_files(path: Path, manifest: Manifest, graphs: Mapping[str, Graph]) -> dict[str, str]:
    """What became of each file of the bundle that is not as it was."""
    present = {entry.name for entry in path.iterdir()} - {MANIFEST_NAME, CERTIFICATE_NAME}
    wanted, weights = {graph.file for graph in graphs.values()}, _weight_files(path, graphs)
    wanted |= set(weights)
    may_change = wanted | {graph.file for graph in manifest.graphs.values()} | {WEIGHTS_FILE}
    if missing := sorted(wanted - present):
        raise BundleError(f"{path / missing[0]}: a graph reads it, and it is missing: copy it beside the graph")
    for name, read_bytes in weights.items():
        check_size(path / name, read_bytes)
    files = {}
    for name, entry in manifest.files.items():
        if name not in present or (name in may_change and name not in wanted):
            files[name] = REMOVED
        elif (path / name).stat().st_size != entry.size_bytes or sha256_file(path / name) != entry.sha256:
            files[name] = CHANGED
        if name in files and name not in may_change:
            raise BundleError(
                f"{path / name}: {files[name]}, and only graphs and their weights may be: copy it again, or export "
                "again"
            )
    others = sorted(present - set(manifest.files) - wanted)
    if others:
        raise InputError(f"{path} holds {', '.join(others[:3])}, which no graph reads: move it elsewhere first")
    files |= dict.fromkeys(sorted(wanted - set(manifest.files)), ADDED)
    if not files:
        raise InputError(f"{path}: nothing in it has changed since it was sealed")
    return files


def _weight_files(path: Path, graphs: Mapping[str, Graph]) -> dict[str, int]:
    """Files of weights beside the graphs, and how many bytes of each are read."""
    weights: dict[str, int] = {}
    for graph in graphs.values():
        for name, read_bytes in external_files(path / graph.file).items():
            weights[name] = max(read_bytes, weights.get(name, 0))
    return weights


def _seal_copy(
    path: Path,
    copy: Path,
    manifest: Manifest,
    graphs: Mapping[str, Graph],
    files: Mapping[str, str],
    trained: Checkpoint,
    tool: str,
) -> Resealing:
    """A copy of the bundle with entries restored, golden vectors recorded anew, and hashes of what is there now."""
    copy.mkdir()
    kept = {name for name in manifest.files if files.get(name) != REMOVED} | {
        name for name, became in files.items() if became == ADDED
    }
    for name in kept:
        shutil.copyfile(path / name, copy / name)
    opset, streams, restored = manifest.opset, manifest.streams, []
    for name, graph in graphs.items():
        if graph.file.endswith(ORT_SUFFIX):
            streams = ()
            continue
        changed = dataclasses.replace(manifest, graphs=graphs)
        had_lost, opset = restore_entries(copy / graph.file, changed, name)
        restored += [graph.file] if had_lost else []
        if not set(streams) <= value_names(copy / graph.file):
            streams = ()
    resealing = Resealing(tool, files, node_changes(copy, manifest, graphs, trained), tuple(restored))
    done = (*manifest.resealed, resealing)
    sealed = dataclasses.replace(manifest, graphs=graphs, opset=opset, streams=streams, resealed=done)
    record_golden(copy, sealed, trained)
    seal_bundle(copy, sealed)
    return resealing
