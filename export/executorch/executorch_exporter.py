"""Export a checkpoint's cell as ExecuTorch programs: step.pte and prefill.pte.

The programs are traced from :class:`causalrn.model.cell.RecurrentCell` and converted by ExecuTorch; nothing here adds
mathematics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.converted_spec import ConvertedSpec
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.state_spec import StateSpec
from causalrn.export.converted_graphs import ConvertedOptions, converted_manifest, derive_converted_state
from causalrn.export.converter_noise import quiet_converter
from causalrn.export.executorch.cell_tracing import example_call
from causalrn.export.executorch.lowering import XNNPACK, Lowered, lower_program
from causalrn.export.executorch.quantizing import quantize_products
from causalrn.export.executorch.spelling import spell_for_xnnpack
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import ModelConfig
from causalrn.training.checkpoint import Checkpoint

_POOL_CHUNK, _SUM_CHUNK = 16, 64
"""Most tokens of a prefill chunk: pairs of a chunk and a pool take memory, and sums none."""


def export_executorch(checkpoint: Checkpoint, folder: Path, options: ConvertedOptions) -> Manifest:
    """Write the programs into an existing folder.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a pool or capacity that does not fit, or what ExecuTorch cannot convert.
        RuntimeUnavailableError: ExecuTorch is not installed.
    """
    CONVERSIONS["executorch"].check_installed()
    spec = derive_converted_state(checkpoint, options)
    cell = RecurrentCell(checkpoint.folded, spec)
    chunk = _prefill_chunk(checkpoint.card.block_config, spec)
    files, left = {}, {}
    for graph in _graph_names(options.max_batch):
        lowered = convert_graph(cell, graph, chunk, options)
        files[graph] = f"{graph}.pte"
        (folder / files[graph]).write_bytes(lowered.content)
        if lowered.not_delegated:
            left[graph] = lowered.not_delegated
    return converted_manifest(
        checkpoint,
        spec,
        "executorch",
        files,
        prefill_chunk=chunk,
        converted=ConvertedSpec(options.backend, options.scheme, options.max_batch, left),
        packages=("executorch", "torchao") if options.is_quantized else ("executorch",),
        scheme=options.scheme,
    )


def convert_graph(cell: RecurrentCell, graph: str, chunk: int, options: ConvertedOptions) -> Lowered:
    """Convert one graph of a cell.

    Args:
        graph: "step", "step_single" or "prefill".
        chunk: most tokens of a prefill.

    Raises:
        ConfigError: a growing pool without a capacity, or what ExecuTorch cannot convert.
    """
    call = example_call(cell, graph, max_batch=options.max_batch, chunk=chunk)
    with quiet_converter("ExecuTorch", "choose another `backend` or `pool`"):
        program = call.trace(cell, is_cell=True)
        if options.backend == XNNPACK:
            module: Any = program.module(check_guards=False)
            if options.is_quantized:
                module = quantize_products(module, call.arguments)
            program = call.trace(spell_for_xnnpack(module))
        return lower_program(program, options.backend)


def _graph_names(max_batch: int) -> tuple[str, ...]:
    """The graphs of a bundle; several sequences have a step of their own, which is slower for one."""
    return ("step", "prefill") if max_batch == 1 else ("step", "prefill", "step_single")


def _prefill_chunk(config: ModelConfig, spec: StateSpec) -> int:
    chunk = _POOL_CHUNK if spec.has_pool or config.state_kind == "max+sum" else _SUM_CHUNK
    return chunk if spec.capacity is None else min(chunk, spec.capacity)
