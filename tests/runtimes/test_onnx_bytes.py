"""Graphs written as bytes are what onnx itself reads."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from causalrn.runtimes.onnx_bytes import Node, encode_model


def test_model_is_valid_and_has_what_was_asked_for():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        Node("MatMul", ("x", "w"), ("y",)),
        Node("LayerNormalization", ("y", "ones"), ("z",), {"axis": -1, "epsilon": 1e-5}),
    ]
    model = onnx.load_from_string(
        encode_model(nodes, {"x": ("rows", 2)}, {"z": ("rows", 3)}, {"w": weights, "ones": np.ones(3)}, opset=21)
    )
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
    assert [node.op_type for node in model.graph.node] == ["MatMul", "LayerNormalization"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[1].attribute} == {
        "axis": -1,
        "epsilon": pytest.approx(1e-5),
    }
    (given,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim] == ["rows", 2]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(stored["w"], weights)
    assert stored["ones"].dtype == np.float32
    x = np.ones((4, 2), np.float32)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    y = x @ weights
    assert np.allclose(found, (y - y.mean(1, keepdims=True)) / y.std(1, keepdims=True), atol=1e-4)
