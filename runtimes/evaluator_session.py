"""The graphs of an ONNX bundle in onnx's reference evaluator, in float64: what the graph means, whoever runs it.

Slow, and for telling faults apart: where it agrees with the oracle and a runtime does not, the runtime is wrong. Needs
onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.graph_files import load_graph
from causalrn.errors import RuntimeUnavailableError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of

_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


class EvaluatorSession(CellSession):
    """An ONNX bundle in float64.

    Args:
        bundle: opened, its hashes checked.

    Every call raises RuntimeUnavailableError where the evaluator does not know an operation of the graph.
    """

    runtime = "graph in float64"

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        super().__init__(
            card_of(bundle), manifest.state, bundle.sha256, prefill_chunk=manifest.prefill_chunk, dtype=np.float64
        )
        self._bundle = bundle
        self._streams: tuple[str, ...] = ()
        self._evaluators: dict[str, Any] = {}
        self._outputs = ["logits", *(tensor.output for tensor in self.spec.tensors)]
        self._inputs = [tensor.input for tensor in self.spec.tensors]

    def _evaluator(self, name: str) -> Any:
        if name not in self._evaluators:
            model = _in_float64(load_graph(self._bundle, self._bundle.manifest.graphs[name].file))
            self._evaluators[name] = ReferenceEvaluator(model)
        return self._evaluators[name]

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        name = self._bundle.manifest.graph_for(*tokens.shape)
        index = self._bundle.manifest.index_type
        feed = dict(zip(self._inputs, state, strict=True))
        feed |= {"tokens": tokens.astype(index), "position": np.array(position, index)}
        try:
            with np.errstate(all="ignore"):  # NaN and infinity are what it is asked about
                results = self._evaluator(name).run([*self._outputs, *self._streams], feed)
        except Exception as error:  # whatever operations raise
            raise RuntimeUnavailableError(f"onnx's reference evaluator cannot run this graph: {error}") from None
        if self._streams:
            self._record_streams(results[len(self._outputs) :])
        return results[0], results[1 : len(self._outputs)]

    def _set_probing(self, on: bool) -> None:
        self._streams = self._bundle.manifest.streams if on else ()


def _in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every float32 a float64."""
    for tensor in model.graph.initializer:
        _widen(tensor)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == _FLOAT:
            value.type.tensor_type.elem_type = _DOUBLE
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _DOUBLE
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
    return model


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
