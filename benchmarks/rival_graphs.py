"""Step graphs written by hand with onnx.helper, node by node: what the exported step graph is measured against.

They take the same folded weights as the cell (:func:`causalrn.model.folding.fold`) and must give the same logits;
`step_latency.py` checks that before it times anything. All are for batch 1, layer norm, one head, exp and post-norm,
with the fewest nodes that onnxruntime needs: shapes are static but for the pool's rows, and pools are [t, H].

    node_by_node_exact   one matrix product gives a and b, another forms all pair sums on a zero slot; rows go out
    concat_exact         the same readout, but the pool grows by Concat inside the graph and goes out complete
    node_by_node_linear  the linear readout's running sum
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from causalrn.model.config import CausalRNConfig
from causalrn.model.folding import FoldedBlock, FoldedWeights

_OPSET, _IR_VERSION = 23, 11
_FLOOR = 1e-30
_END = 1 << 31


class _Graph:
    """Collects nodes, constants, inputs and outputs; names are given in order."""

    def __init__(self) -> None:
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def float_constant(self, array) -> str:
        return self.constant(np.asarray(array, dtype=np.float32))

    def int_constant(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def input(self, name: str, dtype: int, shape: list) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def add(self, op: str, *inputs: str, name: str = "", **attributes) -> str:
        """One node with one output; `name` is given to outputs of the graph."""
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def rms_norm(self, x: str, ones: str) -> str:
        return self.add("RMSNormalization", x, ones, axis=-1, epsilon=_FLOOR)

    def build(self) -> bytes:
        graph = helper.make_graph(self.nodes, "rival", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        return model.SerializeToString()


class StepGraph(_Graph):
    """What every step graph has: embedding, the residual stream around a readout, the head."""

    def __init__(self, weights: FoldedWeights) -> None:
        super().__init__()
        config = weights.config
        if (config.norm, config.positions, config.norm_eps) != ("layer", "learned", 0.0):
            raise ValueError("the hand-written graphs cover layer norm without an eps and learned positions")
        if isinstance(config, CausalRNConfig) and (config.heads, config.activation, config.post_norm) != (
            1,
            "exp",
            True,
        ):
            raise ValueError("the hand-written graphs cover one head, exp and post-norm")
        self.weights, self.config = weights, config
        self.tokens = self.input("tokens", TensorProto.INT64, [1])
        self.position = self.input("position", TensorProto.INT64, [1])
        self.ones_embedding = self.float_constant(np.ones(config.embedding))
        self.ones_hidden = self.float_constant(np.ones(config.hidden))

    def embed(self) -> str:
        token = self.add("Gather", self.float_constant(self.weights.wte), self.tokens)
        place = self.add("Gather", self.float_constant(self.weights.wpe), self.position)
        return self.add("Add", token, place)  # [1, E]

    def linear(self, x: str, weight, bias=None, name: str = "") -> str:
        """weight [out, in] and bias [out] as the model has them."""
        matrix = self.float_constant(weight.T)
        if bias is None:
            return self.add("MatMul", x, matrix, name=name)
        return self.add("Gemm", x, matrix, self.float_constant(bias), name=name)

    def finish_block(self, x: str, o: str, block: FoldedBlock) -> str:
        """x + W3 LN0(o) + b3."""
        normal = self.add("LayerNormalization", o, self.ones_hidden, axis=-1, epsilon=_FLOOR)
        return self.add("Add", x, self.linear(normal, block.w3, block.b3))

    def finish(self, x: str) -> bytes:
        normal = self.rms_norm(x, self.ones_embedding)
        self.output("logits", [1, self.config.vocabulary])
        self.linear(normal, self.weights.head, self.weights.head_bias, name="logits")
        return self.build()

    def activated_sum(self, pairs: str, weights: str) -> str:
        """Sum over rows of exp(LN0(pair)): [n, H] -> [1, H]."""
        return self.add("MatMul", weights, self.add("Exp", self.rms_norm(pairs, self.ones_hidden)))


def node_by_node_exact(weights: FoldedWeights) -> bytes:
    """tokens, position, past.NN [t + 1, H] with a last row of zeros -> logits, terms.NN [2, H]: a, then the row b."""
    graph = StepGraph(weights)
    capacity, hidden = weights.config.capacity, weights.config.hidden
    terms = np.ones((capacity + 1, 2))
    terms[:-1, 1] = 0  # only the new position's own row adds b
    first = graph.add("Sub", graph.int_constant(capacity), graph.position)
    own = graph.add("Slice", graph.float_constant(terms), first, graph.int_constant(_END), graph.int_constant(0))
    sums = graph.add(
        "Slice",
        graph.float_constant(np.ones((1, capacity + 1))),
        first,
        graph.int_constant(_END),
        graph.int_constant(1),
    )
    x, two_rows = graph.embed(), graph.int_constant(2, hidden)
    for index, block in enumerate(weights.blocks):
        pool = graph.input(f"past.{index:02d}", TensorProto.FLOAT, ["rows", hidden])
        graph.output(f"terms.{index:02d}", [2, hidden])
        r = graph.rms_norm(x, graph.ones_embedding)
        both = graph.linear(r, *_joined(block))  # [1, 2 H]
        both = graph.add("Reshape", both, two_rows, name=f"terms.{index:02d}")
        pairs = graph.add("Gemm", own, both, pool)  # [t + 1, H]
        x = graph.finish_block(x, graph.activated_sum(pairs, sums), block)
    return graph.finish(x)


def _joined(block: FoldedBlock) -> tuple[np.ndarray, np.ndarray]:
    """W1 and W2 as one map, [2 H, E] with its bias [2 H]."""
    biases = [np.zeros(len(w)) if b is None else b for w, b in ((block.w1, block.b1), (block.w2, block.b2))]
    return np.concatenate([block.w1, block.w2]), np.concatenate(biases)


def concat_exact(weights: FoldedWeights) -> bytes:
    """tokens, position, past.NN [t, 1, H] -> logits, present.NN [t + 1, 1, H]."""
    graph = StepGraph(weights)
    capacity, hidden = weights.config.capacity, weights.config.hidden
    first = graph.add("Sub", graph.int_constant(capacity), graph.position)
    ones = graph.float_constant(np.ones((1, capacity + 1)))
    sums = graph.add("Slice", ones, first, graph.int_constant(_END), graph.int_constant(1))
    flat, as_row = graph.int_constant(-1, hidden), graph.int_constant(1, 1, hidden)
    x = graph.embed()
    for index, block in enumerate(weights.blocks):
        pool = graph.input(f"past.{index:02d}", TensorProto.FLOAT, ["t", 1, hidden])
        graph.output(f"present.{index:02d}", ["rows", 1, hidden])
        r = graph.rms_norm(x, graph.ones_embedding)
        a = graph.linear(r, block.w1, block.b1)
        b = graph.add("Reshape", graph.linear(r, block.w2, block.b2), as_row)
        rows = graph.add("Concat", pool, b, axis=0, name=f"present.{index:02d}")
        pairs = graph.add("Add", graph.add("Reshape", rows, flat), a)  # [t + 1, H]
        x = graph.finish_block(x, graph.activated_sum(pairs, sums), block)
    return graph.finish(x)


def node_by_node_linear(weights: FoldedWeights) -> bytes:
    """tokens, position, past.NN [1, H] -> logits, present.NN [1, H]; one buffer can serve as both."""
    graph = StepGraph(weights)
    hidden = weights.config.hidden
    x = graph.embed()
    for index, block in enumerate(weights.blocks):
        past = graph.input(f"past.{index:02d}", TensorProto.FLOAT, [1, hidden])
        graph.output(f"present.{index:02d}", [1, hidden])
        r = graph.rms_norm(x, graph.ones_embedding)
        a = graph.rms_norm(graph.linear(r, block.w1, block.b1), graph.ones_hidden)
        b = graph.rms_norm(graph.linear(r, block.w2, block.b2), graph.ones_hidden)
        total = graph.add("Add", past, graph.add("Exp", b), name=f"present.{index:02d}")
        x = graph.finish_block(x, graph.add("Mul", graph.add("Exp", a), total), block)
    return graph.finish(x)
