"""What TensorRT cannot take, found before its parser sees the file: each rule names the node and the remedy.

Checked against TensorRT-RTX 1.7.1: its parser refuses every case in tests/export/trt/test_lint.py, most of them without
a reason that a user could act on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_STATIC = "quantize the float32 bundle with `scheme` w8a8 (scales from calibration) or w8 in `form` qdq"
_PORTABLE = "quantize the float32 bundle with `form` qdq, whose operations are ONNX's own"
_INTEGER_PRODUCTS = ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv")
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_SCATTER_RANK = 4
_GEMM_CAPABILITY = (8, 0)
"""Oldest with products of float32 matrices: of Turing's TensorRT-RTX 1.7.1 says that FP32 GEMM is not supported."""

OLDEST_CAPABILITY = {
    TensorProto.FLOAT16: (7, 5),
    TensorProto.BFLOAT16: (8, 0),
    TensorProto.INT8: (8, 0),
    TensorProto.INT4: (8, 0),
    TensorProto.FLOAT8E4M3FN: (8, 9),
    TensorProto.FLOAT4E2M1: (12, 0),
}
"""By the type of weights or rows, the oldest compute capability with TensorRT-RTX (its support matrix, version 1.7)."""


@dataclass(frozen=True)
class Finding:
    """Something that TensorRT cannot take.

    Attributes:
        rule: name of the rule, a key of :data:`RULES` or "compute-capability".
        node: name of the node, or of the tensor that it writes where it has none.
        problem, remedy: for people.
    """

    rule: str
    node: str
    problem: str
    remedy: str

    def describe(self) -> str:
        """One line."""
        return f"{self.node}: {self.problem} [{self.rule}]: {self.remedy}"


def lint_graph(model: onnx.ModelProto, compute_capabilities: Sequence[str] = ()) -> list[Finding]:
    """Everything that TensorRT would refuse in a graph.

    Args:
        model: weights included.
        compute_capabilities: that it is to be compiled for, as "8.6"; none if the flavor's defaults are taken.
    """
    graph = _Graph(model)
    found = [
        Finding(rule, _name(node), problem, remedy)
        for rule, check in RULES.items()
        for node in model.graph.node
        for problem, remedy in check(node, graph)
    ]
    return [*found, *_check_capabilities(model, graph, compute_capabilities)]


class _Graph:
    """What rules look up."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types = {name: tensor.data_type for name, tensor in self.constants.items()}
        self.shapes: dict[str, list[int | None]] = {}
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            kind = value.type.tensor_type
            self.types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self.shapes[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        for node in model.graph.node:
            if node.op_type == "Cast":
                self.types[node.output[0]] = onnx.helper.get_node_attr_value(node, "to")


_Check = Callable[[onnx.NodeProto, _Graph], Iterator[tuple[str, str]]]


def _check_dynamic_scales(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type == "DynamicQuantizeLinear":
        yield "scales computed at run time (DynamicQuantizeLinear)", _STATIC


def _check_integer_products(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type in _INTEGER_PRODUCTS:
        yield f"a product of integers ({node.op_type}) instead of dequantized values", _STATIC


def _check_domain(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.domain not in ("", "ai.onnx"):
        yield f"{node.op_type} is not ONNX's operation but of the domain {node.domain}", _PORTABLE


def _check_zero_point(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type not in _LINEAR or len(node.input) < 3 or not node.input[2]:
        return
    constant = graph.constants.get(node.input[2])
    if constant is None:
        yield "a zero point that is computed", "quantize symmetrically, with zero points of 0"
    elif np.any(numpy_helper.to_array(constant).astype(np.int64)):
        yield "a zero point that is not 0", "quantize symmetrically, with zero points of 0"


def _check_scale(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type == "DequantizeLinear" and node.input[1] not in graph.constants:
        yield (
            "scales that are computed (DequantizeLinear)",
            "quantize the float32 bundle with `pool8` and `scheme` fp16, w8a8, or w8 in `form` qdq",
        )


def _check_bias(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type == "DequantizeLinear" and graph.types.get(node.input[0]) == TensorProto.INT32:
        yield "a bias in int32 (DequantizeLinear)", "leave biases in float32: QuantizeBias=False in onnxruntime"


def _check_scatter(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    """TensorScatter is taken for caches [B, G, t, D] only."""
    if node.op_type != "TensorScatter":
        return
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    rank, axis = len(graph.shapes.get(node.input[0], [])), int(attributes.get("axis", -2))
    remedy = "use a fixed or growing pool, whose rows the runtime writes, or a cache [B, G, t, D]"
    if attributes.get("mode", b"linear") != b"linear":
        yield "TensorScatter in circular mode", remedy
    elif rank and (rank != _SCATTER_RANK or axis % rank != rank - 2):
        yield f"TensorScatter along axis {axis} of {rank} dimensions", remedy


def _check_name(node: onnx.NodeProto, graph: _Graph) -> Iterator[tuple[str, str]]:
    if node.op_type in _LINEAR and node.name in graph.constants and node.name in node.input:
        yield f"this {node.op_type} node has the name of an initializer that it reads", "rename the node"


RULES: dict[str, _Check] = {
    "dynamic-scales": _check_dynamic_scales,
    "integer-product": _check_integer_products,
    "foreign-domain": _check_domain,
    "zero-point": _check_zero_point,
    "computed-scale": _check_scale,
    "int32-bias": _check_bias,
    "tensor-scatter": _check_scatter,
    "name-clash": _check_name,
}
"""Rules that look at one node at a time, by name; what they yield is (problem, remedy)."""


def _check_capabilities(model: onnx.ModelProto, graph: _Graph, wanted: Sequence[str]) -> Iterator[Finding]:
    """Types that a GPU does not compute with."""
    oldest = min(map(parse_capability, wanted), default=_GEMM_CAPABILITY)
    if oldest < _GEMM_CAPABILITY:
        yield from _check_float32_products(model, wanted)
    for name, kind in graph.types.items():
        needed = OLDEST_CAPABILITY.get(kind, (0, 0))
        late = [text for text in wanted if parse_capability(text) < needed]
        if late:
            what = TensorProto.DataType.Name(kind).lower()
            remedy = f"compile without compute capability {late[0]}, or another scheme"
            problem = f"{what} needs compute capability {needed[0]}.{needed[1]}"
            yield Finding("compute-capability", name, problem, remedy)
            return  # the others say the same


def _check_float32_products(model: onnx.ModelProto, wanted: Sequence[str]) -> Iterator[Finding]:
    types = _Graph(onnx.shape_inference.infer_shapes(model)).types
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul") and types.get(node.output[0]) == TensorProto.FLOAT:
            problem = f"a float32 product ({node.op_type}) needs compute capability 8.0"
            remedy = f"leave compute capability {wanted[0]} out, or use `scheme` fp16 with a constant state"
            yield Finding("compute-capability", _name(node), problem, remedy)
            return


def parse_capability(text: str) -> tuple[int, int]:
    """A compute capability as numbers: (8, 6) for "8.6"."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((f"the node that writes {name}" for name in node.output if name), node.op_type)
