"""Where a step's time goes in onnxruntime: every node's time, by block and by role. Needs onnx, to read the graph."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import InputError
from causalrn.runtimes.bench.candidates import SessionCandidate
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.session_options import SessionOptions

ROLES = ("projection", "pair sum", "norm", "exp", "reduction", "other")
_NORMS = (
    "RMSNormalization",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)
_EXPS = ("Exp", "Softmax", "Elu", "Relu", "Gelu", "FastGelu", "QuickGelu")
_PLAIN_PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "FusedGemm")
_QUANTIZED_PRODUCTS = (
    "MatMulNBits",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
)
_SUFFIX = "_kernel_time"
_PLAIN_S = 0.3
_DEPTH = 128
ROUND = 16
"""Steps from one state, at most."""
_REDUCTIONS = ("ReduceSum", "ReduceMax", "ReduceMean", "CumSum", "Max")


@dataclass(frozen=True)
class NodeTime:
    """One node.

    Attributes:
        name, operator: as in the graph that onnxruntime made of the bundle's.
        block: "0", "1", ..., or "embedding" and "head".
        role: one of :data:`ROLES`.
        time_us: mean over steps, the longest tenth left out; onnxruntime counts whole microseconds.
    """

    name: str
    operator: str
    block: str
    role: str
    time_us: float


@dataclass(frozen=True)
class Profile:
    """A step at a depth.

    Attributes:
        depth: tokens before it.
        steps: how many were measured.
        step_us: median time of a step with profiling off.
        nodes: in the order in which they ran.
    """

    depth: int
    steps: int
    step_us: float
    nodes: tuple[NodeTime, ...]

    @property
    def nodes_us(self) -> float:
        """All nodes together."""
        return sum(node.time_us for node in self.nodes)

    def table(self) -> dict[str, dict[str, float]]:
        """Microseconds by block and role."""
        found: dict[str, dict[str, float]] = {}
        for node in self.nodes:
            row = found.setdefault(node.block, dict.fromkeys(ROLES, 0.0))
            row[node.role] += node.time_us
        return found


def profile_step(path: Path, depth: int | None, options: SessionOptions, steps: int = 192) -> Profile:
    """Profile steps of a bundle in onnxruntime at a depth; None for 128, or what the bundle has.

    Steps are taken :data:`ROUND` at a time, each time from the same state: the depth is what was asked for.

    Raises:
        InputError: a bundle for another runtime, or a depth beyond its capacity.
        BundleError: no bundle.
    """
    import onnx

    bundle = Bundle.open(path)
    if bundle.manifest.target != "onnx":
        raise InputError(f"{path}: a bundle for {bundle.manifest.target}: only ONNX bundles have a profile of nodes")
    capacity = bundle.manifest.state.capacity
    if depth is None:
        depth = _DEPTH if capacity is None else max(0, min(_DEPTH, capacity - ROUND))
    together = ROUND if capacity is None else min(ROUND, capacity - depth)
    if together < 1:
        raise InputError(f"{path}: `depth` {depth} leaves no step before the capacity of {capacity}: ask for less")
    with OnnxRuntimeSession(bundle, provider=options.provider, threads=options.threads) as session:
        step_us = SessionCandidate(session).decode_us(depth, 1, together, _PLAIN_S)
    with (
        temporary_folder() as folder,
        OnnxRuntimeSession(bundle, provider=options.provider, threads=options.threads, profile_into=folder) as session,
    ):
        candidate = SessionCandidate(session)
        for _ in range(1 + steps // together):
            candidate.hold(depth, 1)
            for _ in range(together):
                candidate.step()
        name = bundle.manifest.graph_for(batch=1, time=1)
        events = json.loads(session.end_profile(name).read_text(encoding="utf-8"))
        graph = onnx.load(folder / bundle.manifest.graphs[name].file, load_external_data=False).graph
        nodes = _located(graph, bundle.manifest.streams, _times_by_name(events, steps))
    return Profile(depth, steps, step_us, tuple(nodes))


def _times_by_name(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, float]:
    """Mean of each node's last `steps` times; the longest tenth, in which something else ran, is left out."""
    times: dict[str, list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            times.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event["dur"])
    kept = {name: sorted(each[-steps:])[: max(1, steps * 9 // 10)] for name, each in times.items()}
    return {name: statistics.fmean(each) for name, each in kept.items()}


def _located(graph: Any, streams: Sequence[str], times: Mapping[str, float]) -> Iterator[NodeTime]:
    """Nodes with their block: what comes after a stream's value belongs to the block that reads it."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 1}
    block = -1
    for node in graph.node:
        if node.name in times:
            where = "embedding" if block < 0 else "head" if block == len(streams) - 1 else str(block)
            role = _role_of(node, weights)
            yield NodeTime(node.name, node.op_type, where, role, times[node.name])
        block += sum(output in streams for output in node.output)


def _role_of(node: Any, weights: set[str]) -> str:
    operator = node.op_type
    if operator in _QUANTIZED_PRODUCTS or (operator in _PLAIN_PRODUCTS and weights.intersection(node.input)):
        return "projection"
    if operator in _PLAIN_PRODUCTS:
        return "pair sum" if len(node.input) == 3 else "reduction"  # a and b onto the pool; counts times exps
    for role, operators in (("norm", _NORMS), ("exp", _EXPS), ("reduction", _REDUCTIONS)):
        if operator in operators:
            return role
    return "reduction" if operator == "Add" and any(name.startswith("past.") for name in node.input) else "other"
