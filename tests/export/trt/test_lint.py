"""Every rule has a case that triggers it, and TensorRT-RTX's own parser refuses the same cases."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from causalrn.bundle.trt_flavors import RTX, load_flavor
from causalrn.export.trt.lint import OLDEST_CAPABILITY, RULES, lint_graph

needs_rtx = pytest.mark.skipif(not RTX.is_installed, reason=f"needs TensorRT-RTX: {RTX.install}")

WEIGHTS = np.arange(-512, 512, dtype=np.int16).reshape(32, 32).astype(np.int8)
SCALE, ZERO, THREE = np.float32(0.1), np.int8(0), np.int8(3)
X, Y = ("x", T.FLOAT, [4, 32]), ("y", T.FLOAT, [4, 32])
BYTES, INTEGERS = ("x", T.INT8, [4, 32]), ("y", T.INT32, [4, 32])
CACHE = ("p", T.FLOAT, [16, 1, 32])


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=attributes.pop("name", f"the_{kind}"), **attributes
    )


def model(nodes, inputs, outputs, constants=None, opset=23, domain=""):
    given, wanted = ([helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", given, wanted, tensors)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def scatter(shape, update, **attributes):
    inputs = [("p", T.FLOAT, shape), ("u", T.FLOAT, update), ("i", T.INT64, [shape[0]])]
    return model([node("TensorScatter", "p u i", "y", **attributes)], inputs, [("y", T.FLOAT, shape)], opset=24)


def products(zero):
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "a"),
        node("MatMul", "a w", "y"),
    ]
    return model(nodes, [X], [Y], {"w": WEIGHTS.astype(np.float32), "s": SCALE, "z": zero})


NBITS = {"K": 32, "N": 32, "bits": 8, "block_size": 32, "domain": "com.microsoft"}
PACKED = {"w": np.zeros((32, 1, 32), np.uint8), "s": np.ones(32, np.float32)}
REFUSED = {
    "dynamic-scales": model(
        [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z", "y", name="after")], [X], [Y]
    ),
    "integer-product": model([node("MatMulInteger", "x w", "y")], [BYTES], [INTEGERS], {"w": WEIGHTS}),
    "integer-product, QLinear": model(
        [node("QLinearMatMul", "x s z w s z s z", "y")],
        [BYTES],
        [("y", T.INT8, [4, 32])],
        {"w": WEIGHTS, "s": SCALE, "z": ZERO},
    ),
    "foreign-domain": model([node("MatMulNBits", "x w s", "y", **NBITS)], [X], [Y], PACKED, domain="com.microsoft"),
    "zero-point": products(THREE),
    "computed-scale": model(
        [node("Reshape", "p l", "r"), node("DequantizeLinear", "r s", "y", axis=0)],
        [("p", T.INT8, ["t", 1, 32]), ("s", T.FLOAT, ["t"])],
        [("y", T.FLOAT, ["t", 32])],
        {"l": np.array([-1, 32])},
    ),
    "int32-bias": model(
        [node("DequantizeLinear", "b s", "f"), node("Add", "x f", "y")],
        [X],
        [Y],
        {"b": np.arange(32, dtype=np.int32), "s": SCALE},
    ),
    "name-clash": model(
        [node("DequantizeLinear", "the_w s", "f", name="the_w"), node("MatMul", "x f", "y")],
        [X],
        [Y],
        {"the_w": WEIGHTS, "s": SCALE},
    ),
    "tensor-scatter": scatter([16, 1, 32], [1, 1, 32], axis=0),
    "tensor-scatter, circular": scatter([1, 2, 16, 32], [1, 2, 1, 32], axis=2, mode="circular"),
    "tensor-scatter, axis": scatter([1, 16, 2, 32], [1, 1, 2, 32], axis=1),
}
TAKEN = {
    "zero point of 0": products(ZERO),
    "scatter along the sequence of a cache": scatter([1, 2, 16, 32], [1, 2, 1, 32], axis=2),
}


def refused_by_parser(graph) -> bool:
    tensorrt = load_flavor("rtx")
    builder = tensorrt.api.Builder(tensorrt.logger)
    network = builder.create_network(1 << int(tensorrt.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return not tensorrt.api.OnnxParser(network, tensorrt.logger).parse(graph.SerializeToString())


@pytest.mark.parametrize("case", REFUSED)
def test_each_rule_names_the_node_and_a_remedy(case):
    finding, *others = lint_graph(REFUSED[case])
    assert {other.rule for other in others} <= {"zero-point", "computed-scale"}, (
        "what else is wrong with the same scales"
    )
    assert finding.rule == case.partition(",")[0]
    assert finding.node.startswith("the_")
    assert finding.problem
    assert finding.remedy
    assert finding.describe().startswith(f"{finding.node}: ")


@needs_rtx
@pytest.mark.parametrize("case", REFUSED)
def test_parser_refuses_what_is_found(case):
    assert refused_by_parser(REFUSED[case])


@pytest.mark.parametrize("case", TAKEN)
def test_nothing_is_found_in_what_is_taken(case):
    assert lint_graph(TAKEN[case]) == []


@needs_rtx
@pytest.mark.parametrize("case", TAKEN)
def test_parser_takes_it_too(case):
    assert not refused_by_parser(TAKEN[case])


def test_computed_zero_point():
    graph = products(ZERO)
    graph.graph.initializer.remove(next(tensor for tensor in graph.graph.initializer if tensor.name == "z"))
    graph.graph.input.append(helper.make_tensor_value_info("z", T.INT8, []))
    assert {finding.problem for finding in lint_graph(graph)} == {"a zero point that is computed"}


def test_every_rule_is_triggered_by_a_case():
    assert {case.partition(",")[0] for case in REFUSED} == RULES.keys()


def test_node_without_a_name_is_called_by_its_output():
    graph = REFUSED["integer-product"]
    unnamed = onnx.ModelProto()
    unnamed.CopyFrom(graph)
    unnamed.graph.node[0].ClearField("name")
    assert lint_graph(unnamed)[0].node == "the node that writes y"


@pytest.mark.parametrize(
    ("kind", "too_old", "new_enough"),
    [(T.INT8, "7.5", "8.0"), (T.BFLOAT16, "7.5", "8.6"), (T.FLOAT8E4M3FN, "8.6", "8.9"), (T.FLOAT4E2M1, "8.9", "12.0")],
)
def test_type_that_a_gpu_does_not_compute_with(kind, too_old, new_enough):
    graph = model([node("Cast", "x", "y", to=T.FLOAT)], [("x", kind, [4, 32])], [Y])
    (finding,) = lint_graph(graph, ["12.1", too_old])
    assert finding.rule == "compute-capability"
    assert finding.node == "x"
    assert too_old in finding.remedy
    assert lint_graph(graph, [new_enough]) == []
    assert lint_graph(graph) == []


@pytest.mark.parametrize(("kind", "capabilities", "found"), [(T.FLOAT, ["8.6", "7.5"], 1), (T.FLOAT16, ["7.5"], 0)])
def test_float32_products_need_more_than_turing(kind, capabilities, found):
    weights = {"w": np.ones((32, 32), helper.tensor_dtype_to_np_dtype(kind))}
    graph = model([node("MatMul", "x w", "y")], [("x", kind, [4, 32])], [("y", kind, [4, 32])], weights)
    findings = lint_graph(graph, capabilities)
    assert [(finding.rule, finding.node) for finding in findings] == [("compute-capability", "the_MatMul")] * found
    assert lint_graph(graph, ["8.0"]) == lint_graph(graph) == []


def test_float16_is_taken_by_the_oldest_gpus():
    graph = model([node("Cast", "x", "y", to=T.FLOAT)], [("x", T.FLOAT16, [4, 32])], [Y])
    assert lint_graph(graph, ["7.5"]) == []
    assert min(OLDEST_CAPABILITY.values()) == (7, 5)
