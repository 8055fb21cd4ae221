"""The graphs of a .tflite file: opened, compared with the state contract, and called with arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.library_output import silenced_libraries
from causalrn.runtimes.checks import shortened
from causalrn.runtimes.snapshot import Array

Shapes = Mapping[str, tuple[int, ...]]


def open_interpreter(path: Path, threads: int) -> Any:
    """LiteRT's interpreter of a file.

    Raises:
        RuntimeUnavailableError: ai-edge-litert is not installed.
        BundleError: LiteRT cannot read the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise RuntimeUnavailableError(
            "this needs LiteRT, which is not installed: pip install ai-edge-litert, or 'causalrn[litert]' to export too"
        ) from None
    try:
        with silenced_libraries():  # it says that it uses XNNPACK
            return Interpreter(model_path=str(path), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: LiteRT cannot read it ({shortened(error)}): export the bundle again") from None


class Signature:
    """One graph of a file, by the name of its signature.

    Args:
        interpreter: of the file; other signatures may share it, in the same thread.
        name: of the signature.
        inputs, outputs: shapes by name, in the order of arrays.
        path: of the file, for errors.

    Raises:
        BundleError: the file has no such signature, or one with other names or shapes.
    """

    def __init__(self, interpreter: Any, name: str, inputs: Shapes, outputs: Shapes, path: Path) -> None:
        self._path = path
        try:
            self._runner = interpreter.get_signature_runner(name)
        except ValueError:
            raise BundleError(f"{path}: no signature {name} in it: export the bundle again") from None
        details = self._runner.get_input_details(), self._runner.get_output_details()
        for expected, found in zip((inputs, outputs), details, strict=True):
            _check_shapes(path, name, expected, found)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Outputs for inputs, both in the order of their shapes; the outputs are the caller's own.

        Raises:
            BundleError: LiteRT cannot run the graph.
        """
        try:
            results = self._runner(**dict(zip(self._inputs, values, strict=True)))
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{self._path}: it cannot run ({shortened(error)}): export the bundle again") from None
        return [results[name] for name in self._outputs]


def _check_shapes(path: Path, name: str, expected: Shapes, found: Mapping[str, Any]) -> None:
    if found.keys() != expected.keys():
        raise BundleError(f"{path}: signature {name} has not the names of the manifest: export the bundle again")
    for key, shape in expected.items():
        given, dtype = tuple(int(size) for size in found[key]["shape"]), np.dtype(found[key]["dtype"])
        wanted = np.dtype(np.int32 if key in ("tokens", "position") else np.float32)
        if given != shape or dtype != wanted:
            raise BundleError(
                f"{path}: {key} of {name} is {dtype} {list(given)}, expected {wanted} {list(shape)}: export again"
            )
