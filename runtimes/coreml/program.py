"""The program of an .mlpackage, read back from its files: operations, weights, inputs and outputs. Needs coremltools.

Weights are read from the package's own file of them, by where the program says that they are: a header of 64 bytes,
then per tensor a record (magic number, type, size and place, 64 bytes) and the values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.disk.reading import read_input
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.runtimes.snapshot import Array

MODEL_FILE = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS_FILE = "Data/com.apple.CoreML/weights/weight.bin"
INSTALL = CONVERSIONS["coreml"].install
_RECORD, _MAGIC = struct.Struct("<IIQQ"), 0xDEADBEEF
_BYTES_OF_HALVES, _AGAIN = 1 << 31, "export the bundle again"
_DTYPES: Mapping[int, Any] = {1: np.bool_, 10: np.float16, 11: np.float32, 12: np.float64, 21: np.int8, 22: np.int16,
                              23: np.int32, 24: np.int64, 31: np.uint8, 32: np.uint16}  # fmt: skip
_STRING = 2

Value = Array | str
"""A constant: an array, or one word."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: its type: "matmul".
        inputs: by the operation's own name, "x", names of values; a list has several.
        outputs: by name of a value, its element type; None for words.
    """

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """What an .mlpackage computes.

    Attributes:
        inputs, outputs: by name, shape and element type, as the model's description has them.
        constants: by name.
        operations: in the order in which they run.
    """

    inputs: Mapping[str, tuple[tuple[int, ...], Any]]
    outputs: Mapping[str, tuple[tuple[int, ...], Any]]
    constants: Mapping[str, Value]
    operations: tuple[Operation, ...]


def read_program(package: Path) -> Program:
    """Read the program of a package.

    Raises:
        RuntimeUnavailableError: coremltools is not installed.
        BundleError: files that are missing, malformed or contradict each other.
    """
    try:
        from coremltools.proto import Model_pb2
    except ModuleNotFoundError:
        raise RuntimeUnavailableError(f"this needs coremltools, which is not installed: {INSTALL}") from None
    model = Model_pb2.Model()
    path = package / MODEL_FILE
    try:
        model.ParseFromString(read_input(path, _AGAIN, BundleError, most_bytes=_BYTES_OF_HALVES))
        weights = read_input(package / WEIGHTS_FILE, _AGAIN, BundleError, most_bytes=_BYTES_OF_HALVES)
        return _program(model, weights)
    except (LookupError, ValueError, struct.error) as error:
        raise BundleError(f"{path}: not a program that can be read ({error}): {_AGAIN}") from None
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, by another module in each of its implementations
            raise
        raise BundleError(f"{path}: no Core ML model: {_AGAIN}") from None


def _program(model: Any, weights: bytes) -> Program:
    function = model.mlProgram.functions["main"]
    (block,) = function.block_specializations.values()
    described = [
        {value.name: (tuple(value.type.multiArrayType.shape), _interface_dtype(value)) for value in values}
        for values in (model.description.input, model.description.output)
    ]
    if list(block.outputs) != list(described[1]) or [value.name for value in function.inputs] != list(described[0]):
        raise ValueError("the program has other inputs or outputs than the model says")
    constants: dict[str, Value] = {}
    operations = []
    for index, operation in enumerate(block.operations):
        if operation.type == "const":
            constants[operation.outputs[0].name] = _value(operation.attributes["val"], weights)
            continue
        inputs = {}
        for key, argument in operation.inputs.items():
            names = []
            for place, binding in enumerate(argument.arguments):
                name = binding.name
                if binding.WhichOneof("binding") == "value":
                    name = f"{index}.{key}.{place}"
                    constants[name] = _value(binding.value, weights)
                names.append(name)
            inputs[key] = tuple(names)
        outputs = {value.name: _DTYPES.get(value.type.tensorType.dataType) for value in operation.outputs}
        operations.append(Operation(operation.type, inputs, outputs))
    return Program(described[0], described[1], constants, tuple(operations))


def _interface_dtype(value: Any) -> Any:
    kinds = {65552: np.float16, 65568: np.float32, 65600: np.float64, 131104: np.int32}
    return np.dtype(kinds[value.type.multiArrayType.dataType])


def _value(value: Any, weights: bytes) -> Value:
    """A constant, from the program or from the file of weights."""
    kind, shape = value.type.tensorType.dataType, tuple(_sizes(value.type.tensorType))
    if value.WhichOneof("value") == "blobFileValue":
        return _stored(weights, value.blobFileValue.offset, np.dtype(_DTYPES[kind]), shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if kind == _STRING:
        return str(tensor.strings.values[0])
    if field is None:  # an empty one
        return np.zeros(shape, _DTYPES[kind])
    values = getattr(tensor, field).values
    array = np.frombuffer(values, _DTYPES[kind]) if field == "bytes" else np.array(values, _DTYPES[kind])
    return array.reshape(shape)


def _sizes(tensor_type: Any) -> Iterator[int]:
    for dimension in tensor_type.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            raise ValueError("a shape that is not fixed")
        yield dimension.constant.size


def _stored(weights: bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    magic, _, size, start = _RECORD.unpack_from(weights, offset)
    if magic != _MAGIC or size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize or start + size > len(weights):
        raise ValueError(f"no tensor of {list(shape)} at byte {offset} of the weights")
    return np.frombuffer(weights, dtype, size // dtype.itemsize, start).reshape(shape)
