"""Export of a checkpoint's recurrent cell, perhaps quantized in one go."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import BACKENDS, CONVERSIONS
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.export_profiles import EXPORT_PROFILES, PORTABLE
from causalrn.bundle.manifest import INDEX_TYPES
from causalrn.bundle.native_spec import BINDINGS, PACKAGES, PLACEMENTS, PREFIX, is_prefix
from causalrn.bundle.quantization import SCHEMES
from causalrn.bundle.state_spec import POOL_KINDS
from causalrn.bundle.targets import EXPORT_TARGETS
from causalrn.bundle.web_spec import ENGINE_NAMES
from causalrn.errors import InputError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.export.web.web_exporter import WebOptions
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.workflows.arguments import (
    PathLike,
    choice,
    flag,
    listed,
    narrow_pool,
    optional_choice,
    optional_path,
    optional_whole,
)
from causalrn.workflows.export_converted import check_conversion, export_converted
from causalrn.workflows.export_targets import export_bundle, export_c_bundle, export_web_bundle, write_bundle

if TYPE_CHECKING:  # calibration/ needs onnx, and exports to C do not
    from causalrn.calibration.report import QuantizeReport

DEFAULT_OPSET, PORTABLE_OPSET = 23, 17
_MOST_SEQUENCES = 1 << 10
_OWNED = {
    "onnx": ("pool", "present", "opset", "single_file", "index_type", "ort_format", "profile"),
    "c": ("pool8", "pool16", "weights", "profile", "prefix", "bindings", "package"),
    "web": ("pool8", "pool16", "engine", "beside"),
    **dict.fromkeys(CONVERSIONS, ("pool",)),
    "executorch": ("pool", "backend", "max_batch"),
    "triton": ("max_batch",),
}
"""Arguments that not every target has."""


@dataclass(frozen=True)
class ExportResult:
    """An export; it stands for its bundle's folder wherever a path is wanted.

    Attributes:
        bundle: what was written.
        report: what quantization lost; None for an export in float32.
    """

    bundle: Bundle
    report: QuantizeReport | None = None

    def __fspath__(self) -> str:
        """Path of the bundle."""
        return os.fspath(self.bundle.path)


def export(
    run: PathLike,
    *,
    output: PathLike,
    target: str = "onnx",
    pool: str | None = None,
    present: bool = False,
    capacity: int | None = None,
    opset: int | None = None,
    single_file: bool = False,
    index_type: str | None = None,
    ort_format: bool = False,
    scheme: str | None = None,
    pool8: bool = False,
    pool16: bool = False,
    weights: str | None = None,
    profile: str | None = None,
    prefix: str | None = None,
    bindings: Sequence[str] = (),
    package: Sequence[str] = (),
    engine: str | None = None,
    beside: PathLike | None = None,
    backend: str | None = None,
    max_batch: int | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a checkpoint's recurrent cell as a bundle for a device, whole or not at all.

    Args:
        run: checkpoint folder.
        output: folder to write; an earlier bundle there is replaced.
        target: "onnx", "c" (C99 source), "web" (a folder for browsers), "triton" (a model folder for that server), or
            one of ``causalrn.bundle.conversions.CONVERSIONS``, whose graphs another package converts.
        pool: of onnx and converted graphs, how a growing state goes in and out: "growing", "fixed" or, of onnx,
            "concat"; growing by default.
        present: of a fixed pool in onnx, give all of it with the new rows in their places, for runtimes that keep the
            state themselves; by default the new rows alone, which the caller writes.
        capacity: most positions; None takes the model's.
        opset: of onnx, 17 to 23; 23 by default, 17 for the portable profile.
        single_file: of onnx, the weights inside each graph, instead of one file that all graphs share: a graph can be
            loaded from its bytes alone, and the bundle is as many times larger.
        index_type: of onnx, element type of tokens and position: "int64" by default, or "int32".
        ort_format: of onnx, graphs in onnxruntime's own format, optimized ahead and with their weights inside, and the
            list of operators that its reduced builds take.
        scheme: quantize it, too: see :func:`causalrn.quantize`. C and web have "w8" and "w8a8-dynamic".
        pool8: of C and web, pool rows as int8 with a scale per row.
        pool16: of C and web, pool rows as float16; not with `pool8`.
        weights: of C, "file" or "inline"; file by default, inline for cortex-m and packages.
        prefix: of C, with which all names in the source begin, in capitals those of its macros: several models in one
            program have different ones; "causalrn" by default.
        bindings: of C, files with which other languages use the library, beside it: "cpp", "go", "python", "rust".
        package: of C, worlds of microcontrollers that a folder beside it is laid out for: "arduino", "esp-idf",
            "platformio", "zephyr". One row is computed at a time, and weights are inline.
        profile: of onnx, "default" or "portable": opset 17, and no operator that is not ONNX's own in quantized forms,
            for the widest use. Of C, "generic" or "cortex-m".
        engine: of web, "c" (as WebAssembly) or "ort-web" (onnxruntime-web, fetched with npm).
        beside: of web, another web bundle, which the page shows beside this one.
        backend: of converted graphs, what computes them: of executorch, "xnnpack" by default, or "portable".
        max_batch: of converted graphs, most sequences; 1 by default: memory is planned for so many. Of triton, most
            sequences that the server keeps at once; 64 by default.
        overwrite: replace a bundle whose folder holds files that were added or changed since; they are deleted.
        progress: shows progress.

    Raises:
        InputError: the output holds something else, or arguments contradict each other.
        CheckpointError: the checkpoint cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
        RuntimeUnavailableError: a compiler, a package or another program that the target needs is not here.
        BudgetExceededError: quantization lost more than is allowed; nothing was written.
        VerificationError: converted graphs do not compute what was trained; nothing was written.

    Example:
        >>> bundle = export("run", output="bundle", target="onnx")  # doctest: +SKIP
    """
    asked = {
        "pool": optional_choice(pool, "pool", POOL_KINDS),
        "present": flag(present, "present"),
        "opset": optional_whole(opset, "opset", 1, 1000),
        "single_file": flag(single_file, "single_file"),
        "index_type": optional_choice(index_type, "index_type", INDEX_TYPES),
        "ort_format": flag(ort_format, "ort_format"),
        "pool8": flag(pool8, "pool8"),
        "pool16": flag(pool16, "pool16"),
        "weights": optional_choice(weights, "weights", PLACEMENTS),
        "profile": optional_choice(profile, "profile", [name for names in EXPORT_PROFILES.values() for name in names]),
        "prefix": _checked_prefix(prefix),
        "bindings": tuple(choice(name, "bindings", BINDINGS) for name in dict.fromkeys(listed(bindings, "bindings"))),
        "package": tuple(sorted({choice(name, "package", PACKAGES) for name in listed(package, "package")})),
        "engine": optional_choice(engine, "engine", ENGINE_NAMES),
        "beside": optional_path(beside, "beside"),
        "backend": optional_choice(backend, "backend", BACKENDS),
        "max_batch": optional_whole(max_batch, "max_batch", 1, _MOST_SEQUENCES),
    }
    _refuse_others(choice(target, "target", EXPORT_TARGETS), asked)
    capacity = optional_whole(capacity, "capacity", 1)
    scheme = optional_choice(scheme, "scheme", SCHEMES)
    place, folder = as_path(run, "run"), as_path(output, "output")
    settings: dict[str, Any] = {"overwrite": flag(overwrite, "overwrite"), "progress": progress}
    if target == "onnx":
        return _export_onnx(place, folder, asked, capacity, scheme, settings)
    if target in CONVERSIONS:
        return _export_converted(place, folder, target, asked, capacity, scheme, settings)
    if target == "c":
        options: COptions | WebOptions = _c_options(asked, capacity, scheme)
        return _export_perhaps_quantized(place, folder, options, export_c_bundle, settings)
    if target == "triton":
        return ExportResult(_export_triton(place, folder, asked, capacity, scheme, settings))
    options = _web_options(asked, capacity, scheme)
    return _export_perhaps_quantized(place, folder, options, export_web_bundle, settings)


def _checked_prefix(prefix: str | None) -> str | None:
    if prefix is None or (isinstance(prefix, str) and is_prefix(prefix)):
        return prefix
    raise InputError(
        f"`prefix` {prefix!r} cannot begin names of C source: use up to 40 lower-case letters, digits and _, "
        "a letter first"
    )


def _refuse_others(target: str, asked: dict[str, Any]) -> None:
    """Refuse arguments of another target.

    Raises:
        InputError: one is given.
    """
    for name, value in asked.items():
        if value and name not in _OWNED[target]:
            owners = " or ".join(owner for owner in _OWNED if name in _OWNED[owner])
            raise InputError(f"`{name}` belongs to `target` {owners}, and this is {target}: leave it out")
    profile = asked["profile"]
    if profile and profile not in EXPORT_PROFILES[target]:
        owner = next(owner for owner, names in EXPORT_PROFILES.items() if profile in names)
        raise InputError(f"`profile` {profile} belongs to `target` {owner}, and this is {target}: leave it out")


def _export_onnx(
    run: Path, output: Path, asked: dict[str, Any], capacity: int | None, scheme: str | None, settings: dict[str, Any]
) -> ExportResult:
    is_portable = asked["profile"] == PORTABLE
    opset = asked["opset"] or (PORTABLE_OPSET if is_portable else DEFAULT_OPSET)
    if is_portable and opset != PORTABLE_OPSET:
        raise InputError(f"`profile` portable is opset {PORTABLE_OPSET}, and `opset` is {opset}: leave one of them out")
    settings |= {name: asked[name] for name in ("present", "single_file", "ort_format")}
    settings |= {"pool": asked["pool"] or "growing", "capacity": capacity, "opset": opset}
    settings["index_type"] = asked["index_type"] or INDEX_TYPES[0]
    if scheme is None:
        return ExportResult(export_bundle(run, output, **settings))
    if asked["ort_format"]:
        raise InputError(
            "`ort_format` belongs to float32 graphs: leave `scheme` or it out, or convert the quantized graphs with "
            "onnxruntime.tools.convert_onnx_models_to_ort, and `reseal` the bundle"
        )
    from causalrn.workflows.export_quantized import export_quantized

    quantized = export_quantized(run, output, scheme, form="qdq" if is_portable else "nbits", **settings)
    return ExportResult(quantized.bundle, quantized.report)


def _export_converted(
    run: Path,
    output: Path,
    target: str,
    asked: dict[str, Any],
    capacity: int | None,
    scheme: str | None,
    settings: dict[str, Any],
) -> ExportResult:
    row = CONVERSIONS[target]
    backend, pool = asked["backend"] or row.backends[0], asked["pool"] or row.pools[0]
    options = ConvertedOptions(backend, pool, capacity, asked["max_batch"] or 1, scheme or "float32")
    if not options.is_quantized:
        return ExportResult(export_converted(run, output, options, target=target, **settings))
    from causalrn.workflows.export_quantized import export_quantized_c

    row.check_installed()
    write = partial(export_converted, target=target, is_checked=False)
    check = partial(check_conversion, run=run, output=output, progress=settings["progress"])
    quantized = export_quantized_c(run, output, options, write, check=check, **settings)
    return ExportResult(quantized.bundle, quantized.report)


def _export_triton(
    run: Path, output: Path, asked: dict[str, Any], capacity: int | None, scheme: str | None, settings: dict[str, Any]
) -> Bundle:
    if scheme is not None:
        raise InputError("`target` triton is float32: leave `scheme` out")
    from causalrn.export.triton.triton_exporter import TritonOptions, export_triton

    options = TritonOptions(capacity, asked["max_batch"] or TritonOptions.max_sequences)
    write = partial(export_triton, options=options)
    return write_bundle(run, output, "model folder", write, settings["overwrite"], settings["progress"])


def _c_options(asked: dict[str, Any], capacity: int | None, scheme: str | None) -> COptions:
    profile, prefix, packages = asked["profile"] or "generic", asked["prefix"] or PREFIX, asked["package"]
    if profile == "cortex-m" and asked["weights"] == "file":
        raise InputError("`weights` file and `profile` cortex-m contradict each other: firmware has no files")
    if packages and asked["weights"] == "file":
        raise InputError("`weights` file and `package` contradict each other: microcontrollers have no files")
    if asked["bindings"] and profile != "generic":
        raise InputError("`bindings` need the handles, which `profile` cortex-m leaves out: leave one of them out")
    inline = asked["weights"] == "inline" or profile == "cortex-m" or bool(packages)
    dtype = narrow_pool(asked["pool8"], asked["pool16"])
    weights = "inline" if inline else "file"
    return COptions(capacity, scheme or "float32", dtype, weights, profile, prefix, asked["bindings"], packages)


def _web_options(asked: dict[str, Any], capacity: int | None, scheme: str | None) -> WebOptions:
    other = None if asked["beside"] is None else Bundle.open(asked["beside"])
    dtype = narrow_pool(asked["pool8"], asked["pool16"])
    return WebOptions(ENGINE_NAMES[asked["engine"] or "c"], capacity, scheme or "float32", dtype, other)


def _export_perhaps_quantized(
    run: Path, output: Path, options: Any, write: Callable[..., Bundle], settings: dict[str, Any]
) -> ExportResult:
    if not options.is_quantized:
        return ExportResult(write(run, output, options, **settings))
    from causalrn.workflows.export_quantized import export_quantized_c

    quantized = export_quantized_c(run, output, options, write, **settings)
    return ExportResult(quantized.bundle, quantized.report)
