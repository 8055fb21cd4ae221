"""Compilation of a bundle to TensorRT engines: check, build, report."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.disk.folders import check_replaceable, written_folder
from causalrn.bundle.engine_spec import Range
from causalrn.bundle.json_values import to_json
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.trt_flavors import FLAVORS, HARDWARE_LEVELS, TensorRT, load_flavor
from causalrn.errors import CompileError, InputError, NotExecutedError
from causalrn.export.trt.builder import BuildOptions
from causalrn.export.trt.engine_writer import Layers, compiled_graphs, write_engines
from causalrn.export.trt.profiles import Sizes, choose_profiles, compiled_state
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.card import card_of
from causalrn.workflows.arguments import (
    PathLike,
    choice,
    flag,
    listed,
    optional_path,
    optional_whole,
    whole_number,
)
from causalrn.workflows.saving import JsonReport

REPORT_VERSION = 1
MOST_ROWS = 1 << 20
"""Rows, sequences, tokens and MiB that may be asked for."""


@dataclass(frozen=True)
class CompileResult(JsonReport):
    """An engine bundle; it stands for its folder wherever a path is wanted.

    Attributes:
        bundle: what was written.
        layers: of each graph's network.
        source: the ONNX bundle that was compiled.
        seconds: that building took.
    """

    bundle: Bundle
    layers: Layers
    source: Bundle
    seconds: float = 0.0

    def __fspath__(self) -> str:
        """Path of the engine bundle."""
        return os.fspath(self.bundle.path)

    @property
    def has_golden(self) -> bool:
        """Whether it carries golden vectors, so that it can be verified without a checkpoint."""
        return GOLDEN_NAME in self.bundle.manifest.files

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        manifest = self.bundle.manifest
        assert manifest.engine is not None
        sizes = {name: manifest.files[graph.file].size_bytes for name, graph in manifest.graphs.items()}
        return {
            "report": "causalrn-compile",
            "version": REPORT_VERSION,
            "source": {"path": str(self.source.path), "sha256": self.source.sha256},
            "bundle_sha256": self.bundle.sha256,
            "model": card_of(self.bundle).config.describe(),
            "precision": "float32" if manifest.quantization is None else manifest.quantization.describe(),
            "describe": manifest.engine.describe(),
            "engine": to_json(manifest.engine),
            "size_bytes": sizes,
            "layers": {name: len(layers) for name, layers in self.layers.items()},
            "capacity": manifest.state.capacity,
            "seconds": self.seconds,
            "golden": self.has_golden,
            "executed": False,
        }

    def layers_json(self) -> dict[str, Any]:
        """The layers of each graph's network, as JSON values."""
        return {"report": "causalrn-layers", "version": 1, "graphs": self.layers}


OnResult = Callable[[CompileResult], object]


def ignore_result(result: CompileResult) -> None:
    """Do nothing with a result."""


def compile(
    bundle: PathLike,
    *,
    output: PathLike,
    flavor: str = "rtx",
    capacity: int | Sequence[int] = (),
    profile: Sequence[Range] = (),
    max_batch: int = 16,
    prefill_chunk: int | None = None,
    tf32: bool = False,
    compute_capability: str | Sequence[str] = (),
    hardware_compatibility: str = "none",
    version_compatible: bool = False,
    workspace: int | None = None,
    timing_cache: PathLike | None = None,
    layer_details: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
    on_result: OnResult = ignore_result,
) -> CompileResult:
    """Compile a bundle to TensorRT engines for an NVIDIA GPU, whole or not at all.

    Precision is what the bundle has. It needs a linear readout, a fixed pool, or profiles for a growing one.

    Args:
        bundle: an ONNX bundle.
        output: folder to write; an earlier bundle there is replaced.
        flavor: "rtx" (TensorRT-RTX, builds without a GPU) or "trt" (TensorRT, builds on the GPU that it is for).
        capacity: of a fixed pool, further row counts to compile steps for.
        profile: of a growing pool, (min, opt, max) rows that steps read; each begins one row after the one before.
        max_batch: most sequences.
        prefill_chunk: most tokens at once; None takes what the bundle says.
        tf32: let float32 products round to TF32.
        compute_capability: of rtx, GPUs to compile for, e.g. "8.9".
        hardware_compatibility: of trt, other GPUs that may run it.
        version_compatible: of trt, later versions of the same major one may run it.
        workspace: most scratch memory, in MiB.
        timing_cache: of trt, file that keeps what was timed.
        layer_details: keep what TensorRT tells of every layer.
        overwrite: replace a bundle whose folder holds files that were added or changed since; they are deleted.
        progress: shows progress.
        on_result: called with the result before the bundle is put in its place: where that fails, none appears.

    Raises:
        CompileError: TensorRT is not installed; or what it cannot take, with the node's name; or arguments that
            contradict the bundle.
        InputError: the output is the source or something else.

    Example:
        >>> engine = compile("fixed", output="engine")  # doctest: +SKIP
    """
    sizes = Sizes(
        growing=tuple(_checked_range(entry) for entry in profile),
        capacities=tuple(whole_number(rows, "capacity", 2, MOST_ROWS) for rows in listed(capacity, "capacity")),
        max_batch=whole_number(max_batch, "max_batch", 1, MOST_ROWS),
        prefill_chunk=optional_whole(prefill_chunk, "prefill_chunk", 1, MOST_ROWS),
    )
    options = BuildOptions(
        tf32=flag(tf32, "tf32"),
        compute_capabilities=listed(compute_capability, "compute_capability"),
        hardware_compatibility=choice(hardware_compatibility, "hardware_compatibility", HARDWARE_LEVELS),
        version_compatible=flag(version_compatible, "version_compatible"),
        workspace_mib=optional_whole(workspace, "workspace", 1, MOST_ROWS),
        timing_cache=optional_path(timing_cache, "timing_cache"),
        layer_details=flag(layer_details, "layer_details"),
    )
    places = as_path(bundle, "bundle"), as_path(output, "output")
    return _compile_to(
        *places, choice(flavor, "flavor", FLAVORS), sizes, options, flag(overwrite, "overwrite"), progress, on_result
    )


def _checked_range(value: Any) -> Range:
    """Three ascending numbers of rows.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise InputError(f"`profile` {value!r} is no (min, opt, max): give three numbers of rows, as (1, 128, 1024)")
    low, likely, high = (whole_number(rows, "profile", 0, MOST_ROWS) for rows in value)
    return low, likely, high


def _compile_to(
    path: Path,
    output: Path,
    flavor: str,
    sizes: Sizes,
    options: BuildOptions,
    overwrite: bool,
    progress: Progress,
    on_result: OnResult,
) -> CompileResult:
    check_replaceable(output, BUNDLE_MARKER, overwrite)
    source = Bundle.open(path)
    if os.path.realpath(output) == os.path.realpath(path):
        raise InputError(f"{path} is the bundle itself: name another output")
    _check(source, sizes)
    started = time.monotonic()
    try:
        tensorrt = load_flavor(flavor)
        engines = len(compiled_graphs(source))
        with written_folder(output, BUNDLE_MARKER, overwrite) as folder, progress("compile", engines) as advance:
            built = compile_bundle(source, folder, tensorrt, sizes, options, advance)
            result = dataclasses.replace(built, seconds=time.monotonic() - started)
            on_result(result)
    except NotExecutedError as error:  # nothing has been compiled
        raise CompileError(str(error)) from None
    return dataclasses.replace(result, bundle=dataclasses.replace(result.bundle, path=output))


def compile_bundle(
    source: Bundle,
    folder: Path,
    tensorrt: TensorRT,
    sizes: Sizes,
    options: BuildOptions,
    advance: Callable[..., object] = lambda count, note: None,
) -> CompileResult:
    """Write an engine bundle into an existing folder, the source's golden vectors among its files.

    Raises:
        CompileError: as :func:`causalrn.export.trt.engine_writer.write_engines`.
    """
    manifest, layers = write_engines(source, folder, tensorrt, sizes, options, advance)
    if GOLDEN_NAME in source.manifest.files:
        shutil.copyfile(source.file(GOLDEN_NAME), folder / GOLDEN_NAME)
    return CompileResult(seal_bundle(folder, manifest), layers, source)


def _check(source: Bundle, sizes: Sizes) -> None:
    """Refuse what cannot be compiled, or could not be verified."""
    choose_profiles(source, sizes)
    if GOLDEN_NAME not in source.manifest.files:
        return
    steps, most = load_golden(source).reference.steps, compiled_state(source, sizes).capacity
    if most is not None and most < steps:
        raise CompileError(
            f"`profile` ends at {most} rows, and the golden vectors of {source.path} have {steps} tokens: end at "
            f"{steps} at least, so that the engines can be verified"
        )
