"""One export as `export` and `demo` drive it: what the target runs, golden vectors recorded by it, the manifest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.files import check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER, Manifest
from causalrn.bundle.tolerances import BUDGETS
from causalrn.bundle.web_spec import C_ENGINE
from causalrn.cli.console import progress
from causalrn.errors import CheckpointError
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.export.web.web_exporter import WebOptions, export_web
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.golden import golden_tokens, save_golden
from causalrn.runtimes.parity.oracle import Oracle
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.session import FloatArray, Session
from causalrn.runtimes.web.node_process import find_node
from causalrn.training.checkpoint import Checkpoint, load_checkpoint

_Write = Callable[[Checkpoint, Path], Manifest]
_Finish = Callable[[Path, Reference, Session, FloatArray], None]
"""Called with the folder, the oracle's reference, the bundle's session, and the logits that it gave."""


def export_bundle(run: Path, output: Path, *, pool: str, capacity: int | None, opset: int) -> Bundle:
    """Export a RUN to an ONNX bundle, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError: the output folder holds something else.
        CheckpointError: the RUN cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
    """
    from causalrn.export.onnx_exporter import export_onnx

    return _export(run, output, "graphs", partial(export_onnx, pool=pool, capacity=capacity, opset=opset))


def export_c_bundle(run: Path, output: Path, options: COptions) -> Bundle:
    """Export a RUN as C source, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: no C compiler: the golden vectors are recorded by running the source.
    """
    from causalrn.export.c99.golden_header import golden_header_text
    from causalrn.runtimes.native.native_session import NativeSession
    from causalrn.workflows.firmware_size import write_size

    def finish(folder: Path, reference: Reference, session: Session, recorded: FloatArray) -> None:
        right, bounds = reference.logits[0], reference.bounds.logits
        if options.is_quantized:  # rounding does not explain what it is off: it should say what it says here
            right = recorded[0]
            bounds = 0 * bounds + BUDGETS[options.scheme].repeat * reference.largest_logit
        text = golden_header_text(reference.tokens[0], right, bounds)
        (folder / "golden.h").write_text(text, encoding="utf-8")
        assert isinstance(session, NativeSession)
        write_size(folder, session)

    return _export(run, output, "C source", partial(export_c, options=options), finish)


def export_web_bundle(run: Path, output: Path, options: WebOptions) -> Bundle:
    """Export a RUN for browsers, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError, CheckpointError, ConfigError: as :func:`export_bundle`.
        RuntimeUnavailableError: clang, npm or node is missing or does not work; the golden vectors are recorded by
            running what was built.
    """
    find_node()  # before the work
    what = "WebAssembly" if options.engine == C_ENGINE else "graphs, onnxruntime-web"
    return _export(run, output, what, partial(export_web, options=options))


def _export(run: Path, output: Path, what: str, write: _Write, finish: _Finish | None = None) -> Bundle:
    check_replaceable(output, BUNDLE_MARKER)
    checkpoint = load_checkpoint(run)
    if output.resolve() == run.resolve():
        raise CheckpointError(f"{run} is the RUN itself: name another output")
    with written_folder(output, BUNDLE_MARKER) as folder, progress("export", 3) as advance:
        advance(0, what)
        manifest = write(checkpoint, folder)
        advance(1, "golden vectors")
        tokens = golden_tokens(checkpoint.card, manifest.state.capacity)
        oracle = Oracle(checkpoint.model, checkpoint.card)
        reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
        with open_bundle(seal_bundle(folder, manifest)) as session:
            recorded = save_golden(folder, reference, session)
            if finish is not None:
                finish(folder, reference, session, recorded)
        advance(1, "manifest")
        seal_bundle(folder, manifest)
        advance(1)
    return Bundle.open(output)
