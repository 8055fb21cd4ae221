"""What onnxruntime takes for the parts of a step: graphs that hold one part each, timed by themselves."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime

from causalrn.runtimes.bench.machine import OrtRates
from causalrn.runtimes.onnx_bytes import Node, Shape, encode_model
from causalrn.runtimes.ort_loading import session_options
from causalrn.runtimes.snapshot import Array

_WIDTH = 192
_WIDTHS = (96, 192, 384, 768)
"""Of matrices: 1.3 to 85 MB together."""
_CHAIN, _PRODUCTS, _TENSORS, _POOLS = 100, 36, 12, 12
_ROWS = (16, 64, 256, 1024, 4096)
_BUDGET_S = 0.1


def measure_onnxruntime(threads: int = 1) -> OrtRates:
    """Rates of the CPU provider, from medians; takes about a second."""
    row = np.ones((1, _WIDTH), np.float32)
    one = _run_of(_chain(1), {"x": row}, threads)
    call_s = _median_s(one)
    node_s = _rest(_median_s(_run_of(_chain(1 + _CHAIN), {"x": row}, threads)), call_s) / _CHAIN
    fed = {f"past.{index}": np.ones((1, 1, _WIDTH), np.float32) for index in range(_TENSORS)}
    tensors_s = _rest(_median_s(_run_of(_tensors(), fed, threads)), call_s)
    return OrtRates(
        call_s=call_s,
        tensor_s=_rest(tensors_s / _TENSORS, node_s),
        node_s=node_s,
        weight_bytes_per_s=tuple(_weight_rate(width, call_s, node_s, threads) for width in _WIDTHS),
        pairs_per_s=tuple(
            (float(rows * _WIDTH), rows * _WIDTH / _rest(_readout_s(rows, threads), call_s + 4 * node_s))
            for rows in _ROWS
        ),
    )


def _rest(whole_s: float, parts_s: float) -> float:
    """What is left of a time without its known parts; a tenth at least, for on a busy machine medians do not add up."""
    return max(whole_s - parts_s, 0.1 * whole_s)


def _chain(nodes: int) -> bytes:
    """Additions, one after another: nodes that have next to nothing to do."""
    names = ["x", *(f"y.{index}" for index in range(nodes))]
    steps = [Node("Add", ("x", before), (after,)) for before, after in itertools.pairwise(names)]
    return encode_model(steps, {"x": (1, _WIDTH)}, {names[-1]: (1, _WIDTH)})


def _tensors() -> bytes:
    """As many tensors in and out as a model of 12 blocks has."""
    shape = (1, 1, _WIDTH)
    inputs, outputs = ({f"{kind}.{index}": shape for index in range(_TENSORS)} for kind in ("past", "row"))
    nodes = [Node("Add", (name, name), (other,)) for name, other in zip(inputs, outputs, strict=True)]
    return encode_model(nodes, inputs, outputs)


def _products(width: int) -> bytes:
    """Weights of 12 blocks, each used once."""
    rng = np.random.default_rng(0)
    names = ["x", *(f"y.{index}" for index in range(_PRODUCTS))]
    weights = {f"w.{i}": rng.normal(0, width**-0.5, (width, width)).astype(np.float32) for i in range(_PRODUCTS)}
    nodes = [Node("Gemm", (names[i], f"w.{i}"), (names[i + 1],)) for i in range(_PRODUCTS)]
    return encode_model(nodes, {"x": (1, width)}, {names[-1]: (1, width)}, weights)


def _weight_rate(width: int, call_s: float, node_s: float, threads: int) -> tuple[float, float]:
    """Size of all weights, and how fast they are gone through."""
    run = _run_of(_products(width), {"x": np.ones((1, width), np.float32)}, threads)
    size = 4.0 * _PRODUCTS * width * width
    return size, size / _rest(_median_s(run), call_s + _PRODUCTS * node_s)


def _readout(norm: str, opset: int) -> bytes:
    """The exact readout of one block over t rows."""
    nodes = [
        Node("Gemm", ("which", "terms", "pool"), ("pairs",)),
        Node(norm, ("pairs", "ones"), ("normed",), {"axis": -1, "epsilon": 1e-30}),
        Node("Exp", ("normed",), ("exps",)),
        Node("MatMul", ("counts", "exps"), ("sum",)),
    ]
    inputs: dict[str, Shape] = {"which": ("t", 2), "terms": (2, _WIDTH), "pool": ("t", _WIDTH), "counts": (1, "t")}
    return encode_model(nodes, inputs, {"sum": (1, _WIDTH)}, {"ones": np.ones(_WIDTH)}, opset)


def _readout_s(rows: int, threads: int) -> float:
    """Median time of a readout; pools take turns, as those of the blocks of a model do."""
    rng = np.random.default_rng(0)
    feed = {
        "which": np.ones((rows, 2), np.float32),
        "terms": rng.normal(0, 1, (2, _WIDTH)).astype(np.float32),
        "counts": np.ones((1, rows), np.float32),
    }
    pools = [{"pool": rng.normal(0, 1, (rows, _WIDTH)).astype(np.float32)} for _ in range(_POOLS)]
    try:
        graph = _load(_readout("RMSNormalization", 23), threads)
    except Exception:  # onnxruntime's own classes, by version: one that does not know opset 23 has it by another name
        graph = _load(_readout("SimplifiedLayerNormalization", 21), threads)
    turn = iter(range(1 << 62))
    return _median_s(lambda: graph.run(None, feed | pools[next(turn) % _POOLS]))


def _run_of(model: bytes, feed: Mapping[str, Array], threads: int) -> Callable[[], object]:
    graph = _load(model, threads)
    return lambda: graph.run(None, feed)


def _load(model: bytes, threads: int) -> Any:
    """A graph loaded as bundles are."""
    return onnxruntime.InferenceSession(model, session_options(threads=threads), providers=["CPUExecutionProvider"])


def _median_s(call: Callable[[], object]) -> float:
    for _ in range(5):
        call()
    times: list[int] = []
    end = time.perf_counter() + _BUDGET_S
    while len(times) < 15 or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e9
