"""Blocks that are repeated: the graph computes what one does that was traced as a whole."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from causalrn.export import graph_tracing
from causalrn.export.graph_tracing import block_nodes, trace_cell, trace_whole
from causalrn.export.plain_shapes import set_known_shapes
from causalrn.model.cell import RecurrentCell
from tests.builders import random_model

FAMILY = [
    ({}, "growing", "step_single"),
    ({}, "growing", "prefill"),
    ({}, "fixed", "step_single"),
    ({}, "concat", "prefill"),
    ({"heads": 2, "norm": "rms"}, "fixed", "step"),
    ({"activation": "relu", "readout": "linear"}, "growing", "step"),
    ({"readout": "linear", "positions": "none", "capacity": None}, "growing", "prefill"),
    ({"readout": "plain"}, "growing", "step"),
    ({"readout": "plain"}, "growing", "prefill"),
    ({"attention": "softmax", "hidden": 48}, "growing", "step"),
    ({"attention": "softmax", "hidden": 48}, "growing", "prefill"),
    ({"attention": "linear", "hidden": 48}, "growing", "step"),
]


def _cell(options, pool, blocks):
    return RecurrentCell.from_model(random_model(blocks=blocks, **options), pool=pool)


def _run(model, spec, graph):
    """Outputs for random inputs, by name."""
    rng, single = np.random.default_rng(0), graph == "step_single"
    batch, time = 1 if single else 2, 3 if graph == "prefill" else 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    rows = spec.capacity if spec.pool == "fixed" else 5 + (spec.step_pad_rows if graph != "prefill" else 0)
    feeds = {"tokens": rng.integers(0, 29, (batch, time)), "position": np.array(5)}
    for tensor in spec.tensors:
        shape = tensor.given(batch=batch, rows=rows)
        value = rng.standard_normal(shape).astype(np.float32)
        if tensor.growth == "token":
            value[5:] = 0
        feeds[tensor.input] = np.abs(value) if tensor.role == "sum" else value
    names = [output.name for output in session.get_outputs()]
    return names, session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})


@pytest.mark.cases(1)
@pytest.mark.parametrize(("options", "pool", "graph"), FAMILY)
def test_repeated_blocks_compute_what_traced_ones_do(options, pool, graph):
    cell = _cell(options, pool, blocks=3)
    repeated, whole = trace_cell(cell, graph), trace_whole(cell, graph)
    set_known_shapes(whole)
    kinds, wanted = (Counter(node.op_type for node in model.graph) for model in (repeated, whole))
    assert kinds == wanted
    assert set(repeated.graph.initializers) >= {name for name in whole.graph.initializers if name.startswith("blocks.")}
    (names, outputs), (whole_names, expected) = (_run(model, cell.spec, graph) for model in (repeated, whole))
    assert names == whole_names == ["logits", *(tensor.output for tensor in cell.spec.tensors)]
    assert [value.name for value in repeated.graph.inputs] == [value.name for value in whole.graph.inputs]
    for name, output, other in zip(names, outputs, expected, strict=True):
        assert np.array_equal(output, other), name


@pytest.mark.cases(1)
@pytest.mark.parametrize("blocks", [1, 2])
def test_few_blocks_are_traced_as_they_are(monkeypatch, blocks):
    monkeypatch.setattr(graph_tracing, "_Repetition", None)
    model = trace_cell(_cell({}, "growing", blocks), "step")
    assert len([name for name in model.graph.initializers if name.endswith("w12")]) == blocks


def test_blocks_keep_their_places():
    """Names of the residual stream and of layers in reports come from them."""
    model = trace_cell(_cell({}, "growing", 5), "step_single")
    sizes = [len(block_nodes(model, block)) for block in range(5)]
    assert sizes == [sizes[0]] * 5
    assert all(
        f"blocks.{block}.w12" in [value.name for node in block_nodes(model, block) for value in node.inputs if value]
        for block in range(5)
    )


def _with_own_constant(model):
    """A constant that only the last traced block reads."""
    node = block_nodes(model, 1)[0]
    scale = ir.Value(name="folded", const_value=ir.tensor(np.ones(32, np.float32), name="folded"))
    model.graph.register_initializer(scale)
    node.replace_input_with(1, scale)


def _with_a_reader_outside(model):
    """The head reads what is inside the last traced block."""
    inside, last = block_nodes(model, 1), list(model.graph)[-1]
    last.replace_input_with(0, inside[0].outputs[0])


@pytest.mark.cases(1)
@pytest.mark.parametrize("change", [_with_own_constant, _with_a_reader_outside])
def test_what_is_not_regular_is_traced_as_a_whole(monkeypatch, change):
    trace, traced = graph_tracing.trace_whole, []

    def changed(cell, graph, index_type):
        model = trace(cell, graph, index_type)
        traced.append(len(cell.blocks))
        if traced == [2]:
            change(model)
        return model

    monkeypatch.setattr(graph_tracing, "trace_whole", changed)
    model = trace_cell(_cell({}, "growing", 3), "step_single")
    assert traced == [2, 3]
    assert "folded" not in model.graph.initializers
