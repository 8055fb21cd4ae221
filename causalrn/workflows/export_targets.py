"""Each target's export: what its runtime needs, golden vectors recorded by that runtime, the manifest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.folders import check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER, Manifest
from causalrn.bundle.tolerances import BUDGETS
from causalrn.bundle.web_spec import C_ENGINE
from causalrn.compiling.c_compiler import find_compiler
from causalrn.errors import CheckpointError
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.export.web.web_exporter import WebOptions, export_web
from causalrn.runtimes.opening import open_or_evaluate
from causalrn.runtimes.parity.calls.oracle_table import late_windows
from causalrn.runtimes.parity.golden import GOLDEN_NAME, golden_tokens, save_golden
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray
from causalrn.runtimes.web.node_process import find_node
from causalrn.training.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:  # it needs onnx, which exports to C do without
    from causalrn.export.onnx_exporter import OnnxOptions

_Write = Callable[[Checkpoint, Path], Manifest]
_Finish = Callable[[Path, Reference, Session, FloatArray], None]
"""Called with the folder, the oracle's reference, the bundle's session, and the logits that it gave."""


def export_bundle(
    run: Path,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    **options: Unpack[OnnxOptions],
) -> Bundle:
    """Export a checkpoint to an ONNX bundle, whole or not at all; an earlier bundle there is replaced.

    Args:
        options: :class:`causalrn.export.onnx_exporter.OnnxOptions`.

    Raises:
        InputError: the output folder holds something else.
        CheckpointError: the checkpoint cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
    """
    from causalrn.export.onnx_exporter import export_onnx

    return write_bundle(run, output, "graphs", partial(export_onnx, **options), overwrite, progress)


def export_c_bundle(
    run: Path, output: Path, options: COptions, *, overwrite: bool = False, progress: Progress = no_progress
) -> Bundle:
    """Export a checkpoint as C source, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: no C compiler: the golden vectors are recorded by running the source.
    """
    find_compiler()  # before the work
    write, finish = partial(export_c, options=options), partial(_finish_c, options)
    return write_bundle(run, output, "C source", write, overwrite, progress, finish)


def _finish_c(options: COptions, folder: Path, reference: Reference, session: Session, recorded: FloatArray) -> None:
    """Golden vectors as a C header, packages with them, and what the source takes on a device."""
    from causalrn.export.c99.companions import GOLDEN_HEADER, write_package
    from causalrn.export.c99.golden_header import golden_header_text
    from causalrn.runtimes.native.native_session import NativeSession
    from causalrn.workflows.firmware_size import write_size

    expected, bounds = reference.logits[0], reference.bounds.logits
    if options.is_quantized:  # rounding does not explain what it is off: it should repeat what it gives here
        expected = recorded[0]
        bounds = 0 * bounds + BUDGETS[options.scheme].repeat * reference.largest_logit
    text = golden_header_text(reference.tokens[0], expected, bounds)
    (folder / GOLDEN_HEADER).write_text(text, encoding="utf-8")
    assert isinstance(session, NativeSession)
    write_package(folder, session.native)
    write_size(folder, session)


def export_web_bundle(
    run: Path, output: Path, options: WebOptions, *, overwrite: bool = False, progress: Progress = no_progress
) -> Bundle:
    """Export a checkpoint for browsers, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: clang, npm or node is missing or does not work; the golden vectors are recorded by
            running what was built.
    """
    find_node()  # before the work
    what = "WebAssembly" if options.engine == C_ENGINE else "graphs, onnxruntime-web"
    return write_bundle(run, output, what, partial(export_web, options=options), overwrite, progress)


def record_golden(folder: Path, manifest: Manifest, checkpoint: Checkpoint, finish: _Finish | None = None) -> Bundle:
    """Write golden vectors into a bundle's folder, recorded by its own runtime; the bundle without them is given."""
    tokens = golden_tokens(checkpoint.card, manifest.state.capacity)
    oracle = CheckpointOracle(checkpoint.model, checkpoint.card, checkpoint.folded, sha256=checkpoint.sha256)
    reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
    (folder / GOLDEN_NAME).unlink(missing_ok=True)
    unfinished = seal_bundle(folder, manifest)
    with open_or_evaluate(unfinished) as session:
        late = late_windows(oracle, tokens, manifest.state.capacity)
        recorded = save_golden(folder, reference, session, late)
        if finish is not None:
            finish(folder, reference, session, recorded)
    return unfinished


def write_bundle(
    run: Path,
    output: Path,
    what: str,
    write: _Write,
    overwrite: bool,
    progress: Progress,
    finish: _Finish | None = None,
    check: Callable[[Bundle], object] | None = None,
) -> Bundle:
    """Write a checkpoint's bundle, whole or not at all.

    Args:
        what: `write` writes, for people.
        write: writes graphs or source into a folder.
        finish: adds files to it, once the golden vectors are there.
        check: is called with the whole bundle before it is put in place: where that fails, none appears.
    """
    check_replaceable(output, BUNDLE_MARKER, overwrite)
    checkpoint = load_checkpoint(run)
    if os.path.realpath(output) == os.path.realpath(run):
        raise CheckpointError(f"{run} is the RUN itself: name another output")
    with written_folder(output, BUNDLE_MARKER, overwrite) as folder, progress("export", 3) as advance:
        advance(0, what)
        manifest = write(checkpoint, folder)
        advance(1, "golden vectors")
        unfinished = record_golden(folder, manifest, checkpoint, finish)
        advance(1, "manifest")
        bundle = seal_bundle(folder, manifest, hashed=unfinished.manifest.files)
        advance(1)
        if check is not None:
            check(bundle)
    return dataclasses.replace(bundle, path=output)
