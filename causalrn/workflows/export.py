"""Export of a checkpoint's recurrent cell: what its runtime needs, golden vectors recorded by it, the manifest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.files import as_path, check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER, Manifest
from causalrn.bundle.native_spec import PLACEMENTS, PROFILES
from causalrn.bundle.quantization import SCHEMES
from causalrn.bundle.state_spec import POOL_KINDS
from causalrn.bundle.targets import EXPORT_TARGETS
from causalrn.bundle.tolerances import BUDGETS
from causalrn.bundle.web_spec import C_ENGINE, ENGINE_NAMES
from causalrn.errors import CheckpointError, InputError
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.export.web.web_exporter import WebOptions, export_web
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.golden import golden_tokens, save_golden
from causalrn.runtimes.parity.oracle import Oracle
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session import FloatArray, Session
from causalrn.runtimes.web.node_process import find_node
from causalrn.training.checkpoint import Checkpoint, load_checkpoint
from causalrn.workflows.arguments import PathLike, choice, flag, optional_choice, optional_path, optional_whole

if TYPE_CHECKING:  # calibration/ needs onnx, and exports to C do not
    from causalrn.calibration.report import QuantizeReport

DEFAULT_OPSET = 23
_OWNED = {
    "onnx": ("pool", "opset"),
    "c": ("pool8", "weights", "profile"),
    "web": ("pool8", "engine", "beside"),
}
"""Arguments that not every target has."""

_Write = Callable[[Checkpoint, Path], Manifest]
_Finish = Callable[[Path, Reference, Session, FloatArray], None]
"""Called with the folder, the oracle's reference, the bundle's session, and the logits that it gave."""


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
    capacity: int | None = None,
    opset: int | None = None,
    scheme: str | None = None,
    pool8: bool = False,
    weights: str | None = None,
    profile: str | None = None,
    engine: str | None = None,
    beside: PathLike | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a checkpoint's recurrent cell as a bundle for a device, whole or not at all.

    Args:
        run: checkpoint folder.
        output: folder to write; an earlier bundle there is replaced.
        target: "onnx", "c" (C99 source) or "web" (a folder for browsers).
        pool: of onnx, how a growing state goes in and out: "growing", "fixed" or "concat"; growing by default.
        capacity: most positions; None takes the model's.
        opset: of onnx, 23, 22 or 21; 23 by default.
        scheme: quantize it, too: see :func:`causalrn.quantize`. C and web have "w8" and "w8a8-dynamic".
        pool8: of C and web, pool rows as int8 with a scale per row.
        weights: of C, "file" or "inline"; file by default, inline for cortex-m.
        profile: of C, "generic" or "cortex-m".
        engine: of web, "c" (as WebAssembly) or "ort-web" (onnxruntime-web, fetched with npm).
        beside: of web, another web bundle, which the page shows beside this one.
        progress: shows progress.

    Raises:
        InputError: the output holds something else, or arguments contradict each other.
        CheckpointError: the checkpoint cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
        RuntimeUnavailableError: a compiler or another program that the target needs is not here.
        BudgetExceededError: quantization lost more than is allowed; nothing was written.

    Example:
        >>> bundle = export("run", output="bundle", target="onnx")  # doctest: +SKIP
    """
    asked = {
        "pool": optional_choice(pool, "pool", POOL_KINDS),
        "opset": optional_whole(opset, "opset", 1, 1000),
        "pool8": flag(pool8, "pool8"),
        "weights": optional_choice(weights, "weights", PLACEMENTS),
        "profile": optional_choice(profile, "profile", PROFILES),
        "engine": optional_choice(engine, "engine", ENGINE_NAMES),
        "beside": optional_path(beside, "beside"),
    }
    _refuse_others(choice(target, "target", EXPORT_TARGETS), asked)
    capacity = optional_whole(capacity, "capacity", 1)
    scheme = optional_choice(scheme, "scheme", SCHEMES)
    place, folder = as_path(run, "run"), as_path(output, "output")
    if target == "onnx":
        return _export_onnx(place, folder, asked, capacity, scheme, progress)
    if target == "c":
        options: COptions | WebOptions = _c_options(asked, capacity, scheme)
        return _export_perhaps_quantized(place, folder, options, export_c_bundle, progress)
    options = _web_options(asked, capacity, scheme)
    return _export_perhaps_quantized(place, folder, options, export_web_bundle, progress)


def _refuse_others(target: str, asked: dict[str, Any]) -> None:
    """Refuse arguments of another target.

    Raises:
        InputError: one is given.
    """
    for name, value in asked.items():
        if value and name not in _OWNED[target]:
            owners = " or ".join(owner for owner in _OWNED if name in _OWNED[owner])
            raise InputError(f"`{name}` belongs to `target` {owners}, and this is {target}: leave it out")


def _export_onnx(
    run: Path, output: Path, asked: dict[str, Any], capacity: int | None, scheme: str | None, progress: Progress
) -> ExportResult:
    opset = DEFAULT_OPSET if asked["opset"] is None else asked["opset"]
    settings: dict[str, Any] = {"pool": asked["pool"] or "growing", "capacity": capacity, "opset": opset}
    if scheme is None:
        return ExportResult(export_bundle(run, output, progress=progress, **settings))
    from causalrn.workflows.export_quantized import export_quantized

    quantized = export_quantized(run, output, scheme, progress=progress, **settings)
    return ExportResult(quantized.bundle, quantized.report)


def _c_options(asked: dict[str, Any], capacity: int | None, scheme: str | None) -> COptions:
    if asked["profile"] == "cortex-m" and asked["weights"] == "file":
        raise InputError("`weights` file and `profile` cortex-m contradict each other: firmware has no files")
    inline = asked["weights"] == "inline" or asked["profile"] == "cortex-m"
    placement = "inline" if inline else "file"
    return COptions(capacity, scheme or "float32", asked["pool8"], placement, asked["profile"] or "generic")


def _web_options(asked: dict[str, Any], capacity: int | None, scheme: str | None) -> WebOptions:
    other = None if asked["beside"] is None else Bundle.open(asked["beside"])
    return WebOptions(ENGINE_NAMES[asked["engine"] or "c"], capacity, scheme or "float32", asked["pool8"], other)


def _export_perhaps_quantized(
    run: Path, output: Path, options: Any, write: Callable[..., Bundle], progress: Progress
) -> ExportResult:
    if not options.is_quantized:
        return ExportResult(write(run, output, options, progress=progress))
    from causalrn.workflows.export_quantized import export_quantized_c

    quantized = export_quantized_c(run, output, options, write, progress=progress)
    return ExportResult(quantized.bundle, quantized.report)


def export_bundle(
    run: Path, output: Path, *, pool: str, capacity: int | None, opset: int, progress: Progress = no_progress
) -> Bundle:
    """Export a checkpoint to an ONNX bundle, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError: the output folder holds something else.
        CheckpointError: the checkpoint cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
    """
    from causalrn.export.onnx_exporter import export_onnx

    write = partial(export_onnx, pool=pool, capacity=capacity, opset=opset)
    return _export(run, output, "graphs", write, progress)


def export_c_bundle(run: Path, output: Path, options: COptions, progress: Progress = no_progress) -> Bundle:
    """Export a checkpoint as C source, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: no C compiler: the golden vectors are recorded by running the source.
    """
    return _export(run, output, "C source", partial(export_c, options=options), progress, partial(_finish_c, options))


def _finish_c(options: COptions, folder: Path, reference: Reference, session: Session, recorded: FloatArray) -> None:
    """Golden vectors as a C header, and what the source takes on a device."""
    from causalrn.export.c99.golden_header import golden_header_text
    from causalrn.runtimes.native.native_session import NativeSession
    from causalrn.workflows.firmware_size import write_size

    expected, bounds = reference.logits[0], reference.bounds.logits
    if options.is_quantized:  # rounding does not explain what it is off: it should repeat what it gives here
        expected = recorded[0]
        bounds = 0 * bounds + BUDGETS[options.scheme].repeat * reference.largest_logit
    text = golden_header_text(reference.tokens[0], expected, bounds)
    (folder / "golden.h").write_text(text, encoding="utf-8")
    assert isinstance(session, NativeSession)
    write_size(folder, session)


def export_web_bundle(run: Path, output: Path, options: WebOptions, progress: Progress = no_progress) -> Bundle:
    """Export a checkpoint for browsers, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: clang, npm or node is missing or does not work; the golden vectors are recorded by
            running what was built.
    """
    find_node()  # before the work
    what = "WebAssembly" if options.engine == C_ENGINE else "graphs, onnxruntime-web"
    return _export(run, output, what, partial(export_web, options=options), progress)


def _export(
    run: Path, output: Path, what: str, write: _Write, progress: Progress, finish: _Finish | None = None
) -> Bundle:
    check_replaceable(output, BUNDLE_MARKER)
    checkpoint = load_checkpoint(run)
    if output.resolve() == run.resolve():
        raise CheckpointError(f"{run} is the RUN itself: name another output")
    with written_folder(output, BUNDLE_MARKER) as folder, progress("export", 3) as advance:
        advance(0, what)
        manifest = write(checkpoint, folder)
        advance(1, "golden vectors")
        tokens = golden_tokens(checkpoint.card, manifest.state.capacity)
        oracle = Oracle(checkpoint.model, checkpoint.card, checkpoint.folded)
        reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
        unfinished = seal_bundle(folder, manifest)
        with open_bundle(unfinished) as session:
            recorded = save_golden(folder, reference, session)
            if finish is not None:
                finish(folder, reference, session, recorded)
        advance(1, "manifest")
        bundle = seal_bundle(folder, manifest, hashed=unfinished.manifest.files)
        advance(1)
    return dataclasses.replace(bundle, path=output)
