"""From a program of PyTorch's operators to a .pte file: what a backend takes of it, and what it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

XNNPACK, PORTABLE = "xnnpack", "portable"
_DELEGATE = "executorch_call_delegate"


@dataclass(frozen=True)
class Lowered:
    """A converted graph.

    Attributes:
        content: of its .pte file.
        not_delegated: by operator, how many nodes the backend leaves to ExecuTorch's own kernels.
    """

    content: bytes
    not_delegated: dict[str, int]


def lower_program(program: ExportedProgram, backend: str) -> Lowered:
    """Convert one program, whose method is called "forward".

    Args:
        backend: :data:`XNNPACK` or :data:`PORTABLE`.
    """
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    edge = to_edge_transform_and_lower(
        program,
        partitioner=_partitioners(backend),
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    left = _not_delegated(edge.exported_program()) if backend != PORTABLE else {}
    # a pool is read where it lies: planned inputs would be copied at every call
    planning = MemoryPlanningPass(alloc_graph_input=False)
    converted = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    return Lowered(bytes(converted.buffer), left)


def _partitioners(backend: str) -> Sequence[Any]:
    if backend == PORTABLE:
        return []
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def _not_delegated(program: ExportedProgram) -> dict[str, int]:
    """Operators of tensors that are called beside the delegates, by name: "aten.embedding.default"."""
    counts = Counter(
        str(node.target.__name__)
        for node in program.graph_module.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "_schema")
    )
    counts.pop(_DELEGATE, None)
    return dict(sorted(counts.items()))
