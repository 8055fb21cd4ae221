"""ONNX models as bytes, without onnx, for devices that have none: more outputs for a graph, and graphs of a few nodes.

A model is a protocol buffer: numbered fields, one after another (protobuf.dev, "Encoding"; onnx.proto has the numbers).
Of messages that follow one another the fields are merged: appending an encoded `ModelProto{graph{output{name}}}` to a
model's bytes adds an output and changes nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Shape = Sequence[int | str]
"""Sizes, or names of sizes that are known when the graph runs."""

_VARINT, _FLOAT64, _BYTES, _FLOAT32 = 0, 1, 2, 5
_IR_VERSION = 10
_FLOAT = 1
_INTEGERS = {"int32": 6, "int64": 7}
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_OPSET_VERSION = 2
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE = 1, 2, 3, 20
_TENSOR_DIM, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIM, _DIM_VALUE, _DIM_NAME = 1, 1, 2


@dataclass(frozen=True)
class Node:
    """One operator of onnx's own domain; attributes are numbers."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int | float] = field(default_factory=dict)


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """An encoded ONNX model that also gives the named intermediate values, after its own outputs."""
    outputs = b"".join(_message(_GRAPH_OUTPUT, _text(_VALUE_NAME, name)) for name in names)
    return model + _message(_MODEL_GRAPH, outputs)


def with_vector_input(model: bytes, name: str, dtype: npt.DTypeLike, size: str) -> bytes:
    """An encoded ONNX model whose input `name` is a vector [size] of int64 or int32, where it was a scalar.

    What made a vector [1] of the scalar passes it on as it is.

    Raises:
        ValueError: something else reads the scalar.
    """
    vector = _encode_value(name, [size], _INTEGERS[np.dtype(dtype).name])

    def changed(number: int, content: bytes) -> bytes:
        if number == _GRAPH_INPUT and name in _texts(content, _VALUE_NAME):
            return vector
        if number == _GRAPH_NODE and name in _texts(content, _NODE_INPUT):
            operator, inputs = _texts(content, _NODE_OP), _texts(content, _NODE_INPUT)
            if operator not in (["Reshape"], ["Unsqueeze"]) or inputs.index(name) > 0:
                raise ValueError(f"{', '.join(operator)} reads {name}, not a reshape alone")
            return _encode_node(Node("Identity", [name], _texts(content, _NODE_OUTPUT)))
        return content

    return _rewritten(
        model, lambda number, content: _rewritten(content, changed) if number == _MODEL_GRAPH else content
    )


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of every field: its number, and where it, its content and what follows it begin."""
    place = 0
    while place < len(message):
        begin = place
        key, place = _read_varint(message, place)
        kind = key & 7
        size = {_FLOAT32: 4, _FLOAT64: 8}.get(kind, 0)
        if kind == _BYTES:
            size, place = _read_varint(message, place)
        elif kind == _VARINT:
            size = _read_varint(message, place)[1] - place
        yield key >> 3, begin, place, place + size
        place += size


def _texts(message: bytes, number: int) -> list[str]:
    """The texts of a message's fields of one number."""
    return [message[place:end].decode() for field, _, place, end in _fields(message) if field == number]


def _rewritten(message: bytes, change: Callable[[int, bytes], bytes]) -> bytes:
    """A message, the content of each of its fields as `change(number, content)` gives it."""
    parts = []
    for number, begin, place, end in _fields(message):
        content = message[place:end]
        new = change(number, content)
        parts.append(message[begin:end] if new is content else _message(number, new))
    return b"".join(parts)


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, and the place after it."""
    value = shift = 0
    while message[place] > 0x7F:
        value |= (message[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | message[place] << shift, place + 1


def encode_model(
    nodes: Iterable[Node],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, npt.NDArray[np.floating]] | None = None,
    opset: int = 21,
) -> bytes:
    """A model of float32 tensors: nodes in the order in which they run, inputs and outputs with their shapes."""
    graph = b"".join(_message(_GRAPH_NODE, _encode_node(node)) for node in nodes)
    graph += _text(_GRAPH_NAME, "graph")
    for name, value in (weights or {}).items():
        dims = b"".join(_number(_TENSOR_DIM, size) for size in value.shape)
        content = np.ascontiguousarray(value, "<f4").tobytes()
        tensor = dims + _number(_TENSOR_TYPE, _FLOAT) + _text(_TENSOR_NAME, name) + _message(_TENSOR_RAW, content)
        graph += _message(_GRAPH_INITIALIZER, tensor)
    for number, values in ((_GRAPH_INPUT, inputs), (_GRAPH_OUTPUT, outputs)):
        graph += b"".join(_message(number, _encode_value(name, shape)) for name, shape in values.items())
    opsets = _message(_MODEL_OPSET, _number(_OPSET_VERSION, opset))
    return _number(_MODEL_IR_VERSION, _IR_VERSION) + opsets + _message(_MODEL_GRAPH, graph)


def _encode_node(node: Node) -> bytes:
    content = b"".join(_text(_NODE_INPUT, name) for name in node.inputs)
    content += b"".join(_text(_NODE_OUTPUT, name) for name in node.outputs)
    content += _text(_NODE_OP, node.operator)
    for name, value in node.attributes.items():
        attribute = _text(_ATTRIBUTE_NAME, name)
        if isinstance(value, float):
            attribute += _varint(_ATTRIBUTE_FLOAT << 3 | _FLOAT32) + struct.pack("<f", value)
        else:
            attribute += _number(_ATTRIBUTE_INT, value)
        kind = 1 if isinstance(value, float) else 2
        content += _message(_NODE_ATTRIBUTE, attribute + _number(_ATTRIBUTE_TYPE, kind))
    return content


def _encode_value(name: str, shape: Shape, element: int = _FLOAT) -> bytes:
    dims = b"".join(
        _message(_SHAPE_DIM, _text(_DIM_NAME, dim) if isinstance(dim, str) else _number(_DIM_VALUE, dim))
        for dim in shape
    )
    tensor = _number(_TENSOR_ELEMENT, element) + _message(_TENSOR_SHAPE, dims)
    return _text(_VALUE_NAME, name) + _message(_VALUE_TYPE, _message(_TYPE_TENSOR, tensor))


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _text(number: int, content: str) -> bytes:
    return _message(number, content.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits at a time, the lowest first; the top bit is set where more follow. Negative numbers have 64 bits."""
    value %= 1 << 64
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
