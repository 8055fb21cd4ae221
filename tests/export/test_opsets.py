"""Graphs at every opset: ONNX's own operators only, the same numbers in onnxruntime and in the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from causalrn.bundle.graph_files import strip_leftovers
from causalrn.export.graph_tracing import trace_cell
from causalrn.export.opsets import OPSETS, set_opset
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.snapshot import Array
from tests.builders import random_model

VARIANTS: list[dict[str, Any]] = [
    {},
    {"heads": 2, "norm": "rms"},
    {"activation": "gelu"},
    {"activation": "elu", "post_norm": False},
    {"norm_eps": 1e-3},
    {"readout": "linear"},
    {"readout": "linear", "positions": "none", "capacity": None},
    {"readout": "plain"},
    {"attention": "softmax"},
    {"attention": "linear"},
]
ROWS = 4


def _feed(cell: RecurrentCell, time: int) -> dict[str, Array]:
    rng, pad = np.random.default_rng(0), cell.spec.step_pad_rows if time == 1 else 0
    feed: dict[str, Array] = {"tokens": rng.integers(0, 29, (2, time)), "position": np.array(ROWS)}
    for tensor in cell.spec.tensors:
        value = rng.standard_normal(tensor.given(batch=2, rows=ROWS + pad)).astype(np.float32)
        if tensor.role == "sum":
            value = np.abs(value) + 1
        if tensor.is_pool:
            value[ROWS:] = 0
        feed[tensor.input] = value
    return feed


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize("graph", ["step", "prefill"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_opset_has_standard_operators_and_the_same_numbers(options: dict[str, Any], graph: str) -> None:
    cell = RecurrentCell.from_model(random_model(**options))
    traced = trace_cell(cell, graph)
    strip_leftovers(traced)
    proto, feed = ir.serde.serialize_model(traced), _feed(cell, 1 if graph == "step" else 3)
    expected: list[Array] = []
    for opset in reversed(OPSETS):
        model = ir.serde.deserialize_model(proto)
        set_opset(model, opset)
        lowered = ir.serde.serialize_model(model)
        onnx.checker.check_model(lowered, full_check=True)
        assert [(entry.domain, entry.version) for entry in lowered.opset_import] == [("", opset)]
        content = lowered.SerializeToString()
        found = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feed)
        expected = expected or found
        for one, newest, meaning in zip(found, expected, ReferenceEvaluator(lowered).run(None, feed), strict=True):
            largest = np.abs(newest).max()
            assert np.abs(one - newest).max() <= 5e-6 * largest
            assert np.abs(one - meaning).max() <= 2e-5 * largest


@pytest.mark.parametrize("opset", [17, 22])
def test_onnxruntime_fuses_the_norms_of_every_opset(opset: int, tmp_path) -> None:
    """The price of standard operators: none, for they come in the shape that onnxruntime knows."""
    model = trace_cell(RecurrentCell.from_model(random_model()), "step_single")
    strip_leftovers(model)
    norms = sum(node.op_type == "RMSNormalization" for node in model.graph)
    set_opset(model, opset)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    content = ir.serde.serialize_model(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in optimized.graph.node]
    assert kinds.count("SimplifiedLayerNormalization") == norms > 0
    assert "Pow" not in kinds
