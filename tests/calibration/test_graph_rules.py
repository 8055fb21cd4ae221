"""Changes of graphs, rule by rule, on graphs of a few nodes: what they match, and what they must not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.graph_files import load_graphs
from causalrn.calibration.float16_weights import convert_to_float16
from causalrn.calibration.graph_edits import array_of
from causalrn.calibration.int8_weights import quantize_to_int8
from causalrn.calibration.new_rows import read_as_stored
from causalrn.calibration.pool_rows import narrow_pools
from causalrn.calibration.products import Product, find_products, find_tables, split_products
from causalrn.model.state import derive_state
from causalrn.training.card import card_of

X = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)


def graph(nodes: str, result: str = "float[2, 3] y") -> ir.Model:
    """A model of x [2, 2] with the constants w [3, 2], b [3] and n [2, 3]."""
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[2, 2] x) => ({result})
        <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}, float[3] b = {{1, 2, 3}}, float[2, 3] n = {{1, 2, 3, 4, 5, 6}},
         int64[1] i = {{1}}>
        {{ {nodes} }}"""
    )


def run(model: ir.Model) -> list[np.ndarray]:
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": X}))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def readers(value: ir.Value) -> set[str]:
    return {node.op_type for node in value.consumers()}


# --- products -------------------------------------------------------------------------------------------------------


def test_product_is_split_and_named_after_its_weight():
    model = graph("h = Relu(x) y = Gemm <transB = 1> (h, w, b)")
    before = run(model)
    assert split_products(model) == [Product("w", "w.input")]
    assert operators(model) == ["Relu", "MatMul", "Add"]
    assert [node.name for node in model.graph][1:] == ["w", "w.bias"]
    assert array_of(model.graph.initializers["w"]).shape == (2, 3)
    assert np.array_equal(run(model), before)


def test_product_without_bias_keeps_the_name_of_its_result():
    model = graph("h = Relu(x) y = Gemm <transB = 1> (h, w)")
    before = run(model)
    split_products(model)
    assert operators(model) == ["Relu", "MatMul"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert np.array_equal(run(model), before)


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param("y = Gemm (x, n, b)", id="weight [k, n]: it would be turned the wrong way round"),
        pytest.param("y = Gemm <alpha = 0.5, transB = 1> (x, w, b)", id="factor: a MatMul has none"),
        pytest.param("y = Gemm <beta = 0.5, transB = 1> (x, w, b)", id="factor of the bias: an Add has none"),
        pytest.param("y = Gemm <transA = 1, transB = 1> (x, w, b)", id="input turned round: a MatMul does not turn it"),
        pytest.param("v = Relu(w) y = Gemm <transB = 1> (x, v, b)", id="computed weight: nothing to quantize"),
        pytest.param("m = Gemm <transB = 1> (x, w, b) s = ReduceSum(w) y = Add(m, s)", id="weight that others read"),
    ],
)
def test_other_products_are_left_as_they_are(nodes):
    model = graph(nodes)
    before = ir.to_proto(model)
    assert find_products(model) == []
    assert split_products(model) == []
    assert ir.to_proto(model) == before


def test_kept_product_is_not_split_but_what_it_multiplies_is_named():
    """Calibration watches all products, whatever is kept afterwards."""
    model = graph("h = Relu(x) y = Gemm <transB = 1> (h, w, b)")
    assert split_products(model, {"w"}) == []
    assert operators(model) == ["Relu", "Gemm"]
    assert [node.outputs[0].name for node in model.graph] == ["w.input", "y"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Gemm <transB = 1> (x, w, b)", "x"),  # servers feed it by that name
        ("h = Relu(x) y = Gemm <transB = 1> (h, w, b)", "stream.00"),  # `verify` looks at it
    ],
)
def test_names_of_the_contract_stay(nodes, expected):
    model = graph(nodes)
    for value in model.graph[0].outputs:
        value.name = "stream.00" if value.name == "h" else value.name
    assert split_products(model) == [Product("w", expected)]


@pytest.mark.parametrize(
    ("nodes", "tables"),
    [
        ("y = Gather (w, i)", ["w"]),
        ("y = Gather (b, i)", []),  # a vector: no table of rows
        ("y = Gather (x, i)", []),  # computed
    ],
)
def test_tables_are_constant_matrices_of_which_rows_are_looked_up(nodes, tables):
    assert find_tables(graph(nodes)) == tables


# --- weights --------------------------------------------------------------------------------------------------------


def test_int8_weight_stands_behind_a_dequantize_linear():
    model = graph("h = Relu(x) y = Gemm <transB = 1> (h, w, b)")
    (before,) = run(model)
    quantize_to_int8(model, split_products(model))
    assert operators(model) == ["Relu", "DequantizeLinear", "MatMul", "Add"]
    assert set(model.graph.initializers) == {"w.int8", "w.scale", "b"}
    assert np.abs(run(model)[0] - before).max() < 0.05 * np.abs(before).max()


def test_float16_narrows_products_and_tables_and_nothing_else():
    model = graph("t = Gather (w, i) u = Gather (n, i) m = Gemm <transB = 1> (t, w2, b) y = Add(m, u)")
    model.graph.initializers["w2"] = ir.val("w2", const_value=ir.tensor(np.ones((3, 2), np.float32), name="w2"))
    for node in model.graph:
        if node.op_type == "Gemm":
            node.replace_input_with(1, model.graph.initializers["w2"])
    before = run(model)
    products = split_products(model)
    convert_to_float16(model, products, {"w"})
    types = {name: value.const_value.dtype.name for name, value in model.graph.initializers.items()}
    assert types["w"] == types["w2"] == "FLOAT16"
    assert types["n"] == types["b"] == "FLOAT"  # a table that is kept, and a bias
    assert operators(model) == ["Gather", "Cast", "Gather", "Cast", "MatMul", "Cast", "Add", "Add"]
    assert np.array_equal(run(model), before)  # small integers are float16


def test_float16_product_that_is_an_output_stays_float32_outside():
    model = graph("h = Relu(x) y = Gemm <transB = 1> (h, w)")
    convert_to_float16(model, split_products(model), ())
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("y", ir.DataType.FLOAT)]
    assert run(model)[0].dtype == np.float32


# --- new rows -------------------------------------------------------------------------------------------------------


def test_new_rows_are_read_as_stored_in_every_shape_that_they_had():
    model = graph(
        "e = Exp(x) r = Gather(x, i) before = Neg(r) s = Reshape(r, i) row = Unsqueeze(s, i) after = Abs(row)"
        " stored = Floor(row) y = Add(e, before)"
    )
    values = {value.name: value for node in model.graph for value in node.outputs}
    (x,) = model.graph.inputs
    row, stored = values["row"], values["stored"]
    uses = [(node, index) for node, index in row.uses() if node.op_type == "Abs"]
    read_as_stored(model.graph, row, uses, stored)
    assert readers(row) == {"Floor"}  # what narrows it
    assert readers(stored) == {"Abs", "Reshape"}
    assert readers(values["r"]) == {"Reshape", "Shape"}  # Neg reads the stored values in this shape
    assert readers(x) == {"Gather"}  # Exp reads the query beside the stored row


def test_what_a_row_is_computed_from_is_no_row():
    model = graph("u = Neg(x) row = Mul(u, x) z = Exp(u) stored = Floor(row) y = Add(z, row)", "float[2, 2] y")
    values = {value.name: value for node in model.graph for value in node.outputs}
    uses = [(node, index) for node, index in values["row"].uses() if node.op_type == "Add"]
    read_as_stored(model.graph, values["row"], uses, values["stored"])
    assert readers(values["u"]) == {"Mul", "Exp"}
    assert readers(values["stored"]) == {"Add"}
    assert len(operators(model)) == 5


# --- pools ----------------------------------------------------------------------------------------------------------


def sizes_asked(model: ir.Model) -> set[tuple[str | None, str | None]]:
    """Nodes that ask a pool for its size, and which."""
    pools = [value for value in model.graph.inputs if str(value.name).endswith(".pool")]
    return {(node.name, pool.name) for pool in pools for node in pool.consumers() if node.op_type == "Shape"}


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("portable", [False, True])
def test_pools_are_widened_once_and_their_size_is_asked_as_they_are(dtype, portable, exact_bundle):
    bundle = Bundle.open(exact_bundle)
    spec = derive_state(card_of(bundle).config, "growing", bundle.manifest.state.capacity, dtype)
    for name, model in load_graphs(bundle).items():
        asked = sizes_asked(model)
        assert name != "prefill.onnx" or asked
        narrow_pools(model, spec, portable=portable)
        inputs = {value.name: value for value in model.graph.inputs}
        assert list(inputs)[2:] == [tensor.input for tensor in spec.tensors]
        assert [value.name for value in model.graph.outputs][1:] == [tensor.output for tensor in spec.tensors]
        pools = [inputs[tensor.input] for tensor in spec.tensors if tensor.role == "pool"]
        assert {value.dtype.name for value in pools} == {dtype.upper()}
        widen = {"Cast"} if dtype == "float16" or portable else {"Reshape"}
        for pool in pools:
            assert readers(pool) - {"Shape"} == widen
        assert asked <= sizes_asked(model)
