"""Show what a graph computes inside: intermediate values as further outputs. Needs no onnx, so it works on a device.

Protocol buffers that follow one another are merged: appending an encoded `ModelProto{graph{output{name}}}` to a
model's bytes adds an output and changes nothing else (protobuf.dev, "Encoding", last field wins and merging).
"""

from __future__ import annotations

from collections.abc import Iterable

_MODEL_GRAPH, _GRAPH_OUTPUT, _VALUE_NAME = 7, 12, 1  # field numbers in onnx.proto
_LENGTH_DELIMITED = 2


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """An encoded ONNX model that also gives the named intermediate values, after its own outputs."""
    outputs = b"".join(_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())) for name in names)
    return model + _field(_MODEL_GRAPH, outputs)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits at a time, the lowest first; the top bit says that more follow."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
