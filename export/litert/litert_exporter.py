"""Converts a checkpoint's cell to .tflite with litert-torch: signatures "step" (T = 1) and "prefill" (one T), B = 1.

The converter does not fail where it is wrong: it reads the memory of a transposed weight as if its rows lay one behind
the other. So all weights are laid out that way, and what comes out is verified before it is put in place.
"""

from __future__ import annotations

from pathlib import Path

import torch

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.converted_spec import ConvertedSpec
from causalrn.bundle.manifest import Manifest
from causalrn.export.converted_graphs import ConvertedOptions, converted_manifest, derive_converted_state
from causalrn.export.converter_noise import quiet_converter
from causalrn.export.static_calls import NamedCell, static_chunk, static_inputs
from causalrn.model.cell import RecurrentCell
from causalrn.training.checkpoint import Checkpoint

MODEL_FILE = "model.tflite"
SIGNATURES = ("step", "prefill")
_PREFILL_CHUNK = 16
"""Tokens of the prefill signature: what is left over runs as steps, and every further signature takes a graph more."""
_PACKAGES = ("litert-torch", "ai-edge-litert")


def export_litert(checkpoint: Checkpoint, folder: Path, options: ConvertedOptions) -> Manifest:
    """Write the .tflite file into an existing folder.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a pool, capacity, scheme or number of sequences that the target does not have.
        RuntimeUnavailableError: litert-torch is not installed.
    """
    CONVERSIONS["litert"].check_installed()
    spec = derive_converted_state(checkpoint, options)
    chunk = static_chunk(spec, _PREFILL_CHUNK)
    content = convert_cell(NamedCell(RecurrentCell(checkpoint.folded, spec)), chunk)
    packages: tuple[str, ...] = _PACKAGES
    if options.is_quantized:
        from causalrn.export.litert.litert_quantizer import quantize_model

        content, packages = quantize_model(content, options.scheme), (*_PACKAGES, "ai-edge-quantizer")
    (folder / MODEL_FILE).write_bytes(content)
    return converted_manifest(
        checkpoint,
        spec,
        "litert",
        dict.fromkeys(SIGNATURES, MODEL_FILE),
        prefill_chunk=chunk,
        converted=ConvertedSpec(options.backend, options.scheme),
        packages=packages,
        scheme=options.scheme,
        index_type="int32",
        form="qdq" if options.scheme == "w8" else None,
    )


def convert_cell(cell: NamedCell, chunk: int) -> bytes:
    """A .tflite file, float32, whose signatures share their weights; inputs and outputs have the contract's names.

    Args:
        cell: its weights contiguous.
        chunk: T of the prefill.
    """
    with quiet_converter("litert-torch"), torch.no_grad():
        import litert_torch

        converter = litert_torch._convert.interface.Converter()
        for name, time in zip(SIGNATURES, (1, chunk), strict=True):
            converter.add_signature(name, cell, sample_kwargs=static_inputs(cell.cell.spec, time))
        content: bytes = converter.convert().model_content()
    return content
