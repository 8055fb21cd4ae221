"""One export as `export` and `demo` drive it: graphs, golden vectors recorded by the runtime, the manifest."""

from __future__ import annotations

from pathlib import Path

from causalrn.checkpoint import load_checkpoint
from causalrn.errors import CheckpointError
from causalrn.export.cli.console import progress
from causalrn.export.onnx_exporter import export_onnx
from causalrn.files import check_replaceable, written_folder
from causalrn.manifest import BUNDLE_MARKER, Bundle, seal_bundle
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.golden import golden_tokens, save_golden
from causalrn.runtimes.parity.oracle import Oracle
from causalrn.runtimes.parity.reference import state_positions


def export_bundle(run: Path, output: Path, *, pool: str, capacity: int | None, opset: int) -> Bundle:
    """Export a RUN to a bundle, whole or not at all; an earlier bundle there is replaced.

    Raises:
        InputError: the output folder holds something else.
        CheckpointError: the RUN cannot be read, or its weights cannot run in float32.
        ConfigError: a pool, capacity or opset that does not fit the model.
    """
    check_replaceable(output, BUNDLE_MARKER)
    checkpoint = load_checkpoint(run)
    if output.resolve() == run.resolve():
        raise CheckpointError(f"{run} is the RUN itself: name another output")
    with written_folder(output, BUNDLE_MARKER) as folder, progress("export", 3) as advance:
        advance(0, "graphs")
        manifest = export_onnx(checkpoint, folder, pool=pool, capacity=capacity, opset=opset)
        advance(1, "golden vectors")
        tokens = golden_tokens(checkpoint.card, manifest.state.tensors[0].capacity)
        oracle = Oracle(checkpoint.model, checkpoint.card)
        reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
        with open_bundle(seal_bundle(folder, manifest)) as session:
            save_golden(folder, reference, session)
        advance(1, "manifest")
        seal_bundle(folder, manifest)
        advance(1)
    return Bundle.open(output)
