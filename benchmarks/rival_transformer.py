"""A Transformer's step in onnxruntime at its best: GroupQueryAttention with a KV cache that stays where it is.

The graph takes the folded weights of :func:`causalrn.model.folding.fold` (a Transformer of this toolkit, layer norm,
learned positions) and is built node by node; cache, position and logits are bound once, past and present to the same
memory.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from rival_graphs import StepGraph
from step_loops import HeldState, Loop, load_graph

from causalrn.model.folding import FoldedTransformerBlock, FoldedWeights

_MICROSOFT = "com.microsoft"


def grouped_query_transformer(weights: FoldedWeights, capacity: int) -> bytes:
    """Step graph for batch 1; caches are [1, G, capacity, D]."""
    graph, config = StepGraph(weights), weights.config
    lengths = graph.input("seqlens_k", TensorProto.INT32, [1])
    total = graph.input("total_sequence_length", TensorProto.INT32, [])
    packed, flat = graph.int_constant(1, 1, -1), graph.int_constant(1, -1)
    shape = [1, config.heads, capacity, config.head_width]
    x = graph.embed()
    for number, block in enumerate(weights.blocks):
        assert isinstance(block, FoldedTransformerBlock)
        qkv = graph.linear(graph.rms_norm(x, graph.ones_embedding), block.wqkv)
        names = [f"{kind}.{number:02d}.{part}" for kind in ("past", "present") for part in ("key", "value")]
        past = [graph.input(name, TensorProto.FLOAT, shape) for name in names[:2]]
        for name in names[2:]:
            graph.output(name, shape)
        read = f"o.{number}"
        graph.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [graph.add("Reshape", qkv, packed), "", "", *past, lengths, total],
                [read, *names[2:]],
                domain=_MICROSOFT,
                num_heads=config.heads,
                kv_num_heads=config.heads,
                scale=1.0,  # 1 / sqrt(D) is in the weights
            )
        )
        x = graph.add("Add", x, graph.linear(graph.add("Reshape", read, flat), block.wo))
        inner = graph.add("Gelu", graph.linear(graph.rms_norm(x, graph.ones_embedding), block.w1, block.b1))
        x = graph.add("Add", x, graph.linear(inner, block.w2, block.b2))
    return graph.finish(x)


class SharedCacheLoop(Loop):
    """Everything is bound once; attention writes the new key and value into the cache."""

    def __init__(self, model: bytes, heads: int) -> None:
        self.graph, self.heads = load_graph(model), heads
        inputs = {entry.name: entry.shape for entry in self.graph.get_inputs()}
        logits = next(entry.shape for entry in self.graph.get_outputs() if entry.name == "logits")
        self.tokens, self.place = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.lengths, self.total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self.logits = np.zeros(logits, np.float32)
        self.caches = {name: np.zeros(shape, np.float32) for name, shape in inputs.items() if name.startswith("past.")}
        self.binding = self.graph.io_binding()
        fed = {"tokens": self.tokens, "position": self.place, "seqlens_k": self.lengths}
        fed["total_sequence_length"] = self.total
        given = {"logits": self.logits} | {n.replace("past.", "present."): cache for n, cache in self.caches.items()}
        for bind, arrays in ((self.binding.bind_input, fed | self.caches), (self.binding.bind_output, given)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def hold(self, state: HeldState) -> None:
        for number, rows in enumerate(state.arrays):  # [t, 1, 2E], a key and a value
            for part, values in zip(("key", "value"), np.split(rows[:, 0], 2, axis=-1), strict=True):
                by_head = values.reshape(len(values), self.heads, -1).swapaxes(0, 1)
                self.caches[f"past.{number:02d}.{part}"][0, :, : len(values)] = by_head
        self.move(state.position)

    def step(self, token: int) -> np.ndarray:
        self.tokens[0] = token
        self.graph.run_with_iobinding(self.binding)
        self.move(self.position + 1)
        return self.logits

    def undo(self) -> None:
        self.move(self.position - 1)

    def move(self, position: int) -> None:
        self.position = position
        self.place[0], self.lengths[0], self.total[...] = position, position, position + 1
