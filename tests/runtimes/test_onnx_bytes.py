"""Graphs written as bytes are what onnx itself reads."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from causalrn.runtimes.onnx_bytes import Node, encode_model, with_vector_input


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


def position_model(operator):
    """What looks up a row by a scalar position, after `operator`."""
    position = onnx.helper.make_tensor_value_info("position", onnx.TensorProto.INT64, [])
    rows = onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["n", 2])
    one = onnx.numpy_helper.from_array(np.array([1] if operator == "Reshape" else [0]), "one")
    table = onnx.numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "table")
    nodes = [
        onnx.helper.make_node(operator, ["position", "one"], ["place"]),
        onnx.helper.make_node("Gather", ["table", "place"], ["rows"]),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [position], [rows], [one, table])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


@pytest.mark.parametrize("operator", ["Reshape", "Unsqueeze"])
def test_scalar_input_becomes_a_vector(operator):
    model = position_model(operator)
    changed = onnx.load_from_string(with_vector_input(model.SerializeToString(), "position", np.int64, "B"))
    onnx.checker.check_model(changed, full_check=True)
    assert changed.graph.initializer == model.graph.initializer
    (given,) = changed.graph.input
    assert [dim.dim_param for dim in given.type.tensor_type.shape.dim] == ["B"]
    (found,) = ReferenceEvaluator(changed).run(None, {"position": np.array([3, 0, 3])})
    assert found.tolist() == [[6, 7], [0, 1], [6, 7]]


def test_scalar_that_something_else_reads_stays_one():
    with pytest.raises(ValueError, match="Add reads position"):
        with_vector_input(position_model("Add").SerializeToString(), "position", np.int64, "B")
