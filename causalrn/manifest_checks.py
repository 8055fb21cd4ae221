"""Whether what a manifest says can be: names, numbers, and parts that belong together. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from causalrn.native_spec import WEB_PROFILE
from causalrn.state_spec import StateSpec
from causalrn.web_spec import BESIDE, C_ENGINE, WebSpec

if TYPE_CHECKING:
    from causalrn.manifest import Manifest

_LARGEST_CHUNK = 1 << 20


def check_manifest(manifest: Manifest) -> None:
    """Check what names and numbers mean, whoever wrote them.

    Raises:
        ValueError: a file outside the bundle, a graph that is missing or not listed, an impossible number.
    """
    for name, entry in manifest.files.items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name")
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise ValueError(f"the entry of {name!r} is no hash and size")
    _check_executable(manifest)
    pool, first = manifest.state.pool if manifest.state.has_pool else "growing", manifest.state.tensors[0]
    if manifest.state != StateSpec.from_config(manifest.card.config, pool, first.capacity, first.dtype):
        raise ValueError("the state does not belong to the model")
    if (first.dtype == "int8") != (manifest.quantization is not None and manifest.quantization.pool8):
        raise ValueError(f"quantization contradicts pools of {first.dtype}")
    if manifest.folders and manifest.web is None:
        raise ValueError(f"folders in a bundle for {manifest.target!r}")
    words = [manifest.target, manifest.checkpoint_sha256, *manifest.created_with.values(), *manifest.streams]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("target, checkpoint_sha256, created_with or streams is of a wrong type")
    if manifest.streams and len(set(manifest.streams)) != manifest.card.config.blocks + 1:
        raise ValueError(f"{len(set(manifest.streams))} streams for {manifest.card.config.blocks} blocks")
    if type(manifest.prefill_chunk) is not int or not 1 <= manifest.prefill_chunk <= _LARGEST_CHUNK:
        raise ValueError(f"prefill_chunk is {manifest.prefill_chunk!r}")


def _check_executable(manifest: Manifest) -> None:
    """Check that what computes is there: graphs, engines of graphs, or C source."""
    source = manifest.target if manifest.web is not None and manifest.web.engine == C_ENGINE else "c"
    for target, entry in (("tensorrt", manifest.engine), ("web", manifest.web), (source, manifest.native)):
        if (manifest.target == target) != (entry is not None):
            raise ValueError(
                f"a bundle for {manifest.target!r} with{'out' if entry is None else ''} entry for {target}"
            )
    if manifest.web is not None:
        _check_web(manifest, manifest.web)
    if (manifest.native is not None and manifest.native.profile == WEB_PROFILE) != (source == "web"):
        raise ValueError("source for the web in another bundle, or none in one for the web")
    if manifest.native is not None:
        missing = [name for name in manifest.native.files if name not in manifest.files]
        if missing or manifest.graphs or manifest.opset is not None:
            raise ValueError(f"C source {'without ' + missing[0] if missing else 'with graphs'}")
        return
    if type(manifest.opset) is not int:
        raise ValueError(f"opset is {manifest.opset!r}")
    for name in ("step", "prefill"):
        if name not in manifest.graphs:
            raise ValueError(f"no graph {name}")
    for name, graph in manifest.graphs.items():
        if graph.file not in manifest.files:
            raise ValueError(f"graph file {graph.file!r} is not listed")
        if graph.pad_rows != (0 if name == "prefill" else manifest.state.step_pad_rows):
            raise ValueError(f"graph {name} has pad_rows {graph.pad_rows!r}")
    if manifest.engine is not None:
        manifest.engine.check_fits(manifest.state, manifest.graphs)


def _check_web(manifest: Manifest, web: WebSpec) -> None:
    if any(name not in manifest.files for name in web.files):
        raise ValueError("files of the web target are missing")
    if (web.limits is None) != (manifest.quantization is None):
        raise ValueError("limits contradict quantization")
    if manifest.state.has_pool and manifest.state.pool != "growing":
        raise ValueError(f"a {manifest.state.pool} pool in a browser")
    if set(manifest.folders) - {BESIDE} or not all(isinstance(sha256, str) for sha256 in manifest.folders.values()):
        raise ValueError("folders that cannot be")
