"""Shapes that a graph computes while it runs, and that are known: constants; what is not known stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.reference import ReferenceEvaluator

from causalrn.export.plain_shapes import set_known_shapes

FLOAT = onnx.TensorProto.FLOAT


def _reshape(given: list[int | str], wanted: list[int | str]) -> ir.Model:
    """A Reshape whose target is computed from sizes of its input: a size for every letter, else a constant."""
    nodes, parts, constants = [make_node("Shape", ["x"], ["shape"])], [], {}
    for axis, size in enumerate(wanted):
        name = f"size{axis}"
        if size in given and isinstance(size, str):
            constants[f"axis{axis}"] = [given.index(size)]
            nodes.append(make_node("Gather", ["shape", f"axis{axis}"], [name]))
        else:
            constants[name] = [size if isinstance(size, int) else -1]
        parts.append(name)
    nodes += [make_node("Concat", parts, ["target"], axis=0), make_node("Reshape", ["x", "target"], ["y"])]
    initializers = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = make_graph(
        nodes,
        "shapes",
        [make_tensor_value_info("x", FLOAT, given)],
        [make_tensor_value_info("y", FLOAT, wanted)],
        initializers,
    )
    return ir.serde.deserialize_model(make_model(graph, opset_imports=[make_opsetid("", 17)]))


def _target(model: ir.Model) -> list[int] | None:
    node = next(node for node in model.graph if node.op_type == "Reshape")
    target = node.inputs[1]
    assert target is not None
    return None if target.const_value is None else target.const_value.numpy().tolist()


@pytest.mark.parametrize(
    ("given", "wanted", "target"),
    [
        (["b", 1, 8], ["b", 2, 4], [0, 2, 4]),
        (["b", "n", 8], ["b", "n", 2, 4], [0, 0, 2, 4]),
        ([1, "b", 8], ["b", 8], [-1, 8]),
        (["n", "b", 8], ["n", "b * 8"], [0, -1]),
    ],
    ids=str,
)
def test_sizes_that_are_the_input_s_or_what_is_left_are_constants(given, wanted, target) -> None:
    model = _reshape(given, wanted)
    set_known_shapes(model)
    assert _target(model) == target
    assert [node.op_type for node in model.graph] == ["Reshape"]


def test_sizes_that_two_numbers_would_have_to_stand_for_are_the_input_s() -> None:
    model = _reshape(["n", "b", 8], ["b", "n", 8])
    set_known_shapes(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Shape", "Concat", "Reshape"]
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    x = np.arange(3 * 2 * 8, dtype=np.float32).reshape(3, 2, 8)
    (y,) = ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": x})
    assert np.array_equal(y, x.reshape(2, 3, 8))


def test_what_is_left_beside_a_sum_of_sizes_is_computed() -> None:
    """Runtimes that plan shapes ahead cannot divide by a sum."""
    nodes = [
        make_node("Reshape", ["x", "as_row"], ["flat"]),
        make_node("Concat", ["x", "more"], ["both"], axis=0),
        make_node("Shape", ["both"], ["rows"], start=0, end=1),
        make_node("Concat", ["rows", "left"], ["target"], axis=0),
        make_node("Reshape", ["both", "target"], ["y"]),
    ]
    graph = make_graph(
        nodes,
        "shapes",
        [make_tensor_value_info(name, FLOAT, [size, "b", 8]) for name, size in (("x", "n"), ("more", "m"))],
        [make_tensor_value_info("y", FLOAT, ["n + m", "8*b"]), make_tensor_value_info("flat", FLOAT, ["n", "8*b"])],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in (("left", [-1]), ("as_row", [0, -1]))],
        value_info=[make_tensor_value_info("both", FLOAT, ["n + m", "b", 8])],
    )
    model = ir.serde.deserialize_model(make_model(graph, opset_imports=[make_opsetid("", 17)]))
    set_known_shapes(model)
    assert [node.op_type for node in model.graph] == ["Reshape", "Shape", "Concat", "Concat", "Reshape"]
    x, more = np.zeros((3, 2, 8), np.float32), np.ones((1, 2, 8), np.float32)
    (y, _) = ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": x, "more": more})
    assert np.array_equal(y, np.concatenate([x, more]).reshape(4, 16))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["n", "b", 8], ["b * n", "n", 8]),  # "what is left" is one number, and the other is no size of an input
        (["t", "b", 8], ["t", "b * 8"]),  # t is 0 in a fresh state: nothing can be told from what is left
    ],
    ids=str,
)
def test_sizes_that_two_numbers_would_have_to_stand_for_stay(given, wanted) -> None:
    model = _reshape(given, wanted)
    before = [node.op_type for node in model.graph]
    set_known_shapes(model)
    assert _target(model) is None
    assert [node.op_type for node in model.graph] == before
