"""Converts a checkpoint's cell to .mlpackage folders with coremltools: step (T = 1) and prefill (one T), B = 1.

States are inputs and outputs: those that Core ML keeps itself are float16, whatever precision is asked for. Norms are
written out before, and masks: coremltools divides by the largest |value| for a norm, which is 0 / 0 for zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.converted_spec import ConvertedSpec
from causalrn.bundle.json_values import json_text, to_json
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.state_spec import StateSpec
from causalrn.export.converted_graphs import ConvertedOptions, converted_manifest
from causalrn.export.converter_noise import quiet_converter
from causalrn.export.static_calls import NamedCell, static_chunk, static_inputs
from causalrn.model.cell import RecurrentCell
from causalrn.model.state import derive_state
from causalrn.training.checkpoint import Checkpoint

GRAPHS = ("step", "prefill")
MODEL_FILE = "Data/com.apple.CoreML/model.mlmodel"
FP16 = "fp16"
_PREFILL_CHUNK = 16


def package_name(graph: str) -> str:
    """Name of a graph's folder."""
    return f"{graph}.mlpackage"


def export_coreml(checkpoint: Checkpoint, folder: Path, options: ConvertedOptions) -> Manifest:
    """Write the packages into an existing folder.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a pool, capacity, scheme or number of sequences that the target does not have.
        RuntimeUnavailableError: coremltools is not installed.
    """
    CONVERSIONS["coreml"].check_installed()
    config = checkpoint.card.block_config
    spec = derive_state(config, options.pool, options.capacity, present=config.state_kind == "pool")
    spec.check_useful()
    chunk = static_chunk(spec, _PREFILL_CHUNK)
    cell = NamedCell(RecurrentCell(checkpoint.folded, spec))
    for graph, time in zip(GRAPHS, (1, chunk), strict=True):
        convert_graph(cell, graph, time, folder / package_name(graph), half=options.scheme == FP16)
    return converted_manifest(
        checkpoint,
        spec,
        "coreml",
        {graph: f"{package_name(graph)}/{MODEL_FILE}" for graph in GRAPHS},
        prefill_chunk=chunk,
        converted=ConvertedSpec(options.backend, options.scheme),
        packages=("coremltools",),
        scheme=options.scheme,
        index_type="int32",
    )


def convert_graph(cell: NamedCell, graph: str, time: int, package: Path, *, half: bool) -> None:
    """Write the package of one graph; inputs and outputs have the contract's names, with "_" for ".".

    Args:
        cell: what is converted.
        graph: its name, for the package's description.
        time: T.
        half: products with weights in float16 instead of float32; inputs and outputs stay float32.
    """
    spec = cell.cell.spec
    with quiet_converter("coremltools"), torch.no_grad():
        import coremltools

        inputs = static_inputs(spec, time, position_shape=(1,))
        outputs = list(cell(**inputs))
        program = torch.export.export(cell, (), inputs).run_decompositions({**_WRITTEN_OUT})
        model = coremltools.convert(
            program,
            outputs=[coremltools.TensorType(dtype=np.float32) for _ in outputs],  # else float16 where that is asked for
            compute_precision=_precision(coremltools, half=half),
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )
        named = _with_names(coremltools, model, outputs, graph, spec)
        named.save(str(package))
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)


def _precision(coremltools: Any, *, half: bool) -> Any:
    """Float32, or float16 for products with weights; norms, exponentials and sums stay float32 in either."""
    if not half:
        return coremltools.precision.FLOAT32
    return coremltools.transform.FP16ComputePrecision(op_selector=lambda operation: operation.op_type == "linear")


def _with_names(coremltools: Any, model: Any, outputs: list[str], graph: str, spec: StateSpec) -> Any:
    """The same model with outputs that are called as the contract has them, and the contract in its description."""
    description = model.get_spec()
    found = [value.name for value in description.description.output]
    for old, new in zip(found, outputs, strict=True):
        coremltools.utils.rename_feature(description, old, new, rename_inputs=False)
    entries = description.description.metadata.userDefined
    entries.update({"causalrn.graph": graph, "causalrn.state": json_text(to_json(spec)).strip()})
    return coremltools.models.MLModel(description, weights_dir=model.weights_dir, skip_model_load=True)


def _rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """As PyTorch defines it."""
    axes = list(range(-len(normalized_shape), 0))
    normal = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return normal if weight is None else normal * weight


def _masked_fill(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """As PyTorch defines it, also where the mask has more rows: coremltools gives the result the shape of `x`."""
    return torch.where(mask, torch.full((), value, dtype=x.dtype), x)


_WRITTEN_OUT = {
    torch.ops.aten.rms_norm.default: _rms_norm,
    torch.ops.aten.masked_fill.Scalar: _masked_fill,
}
