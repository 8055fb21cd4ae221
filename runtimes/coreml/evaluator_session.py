"""A Core ML bundle's programs in numpy: what was converted, read back from the packages, on any machine.

It says whether the packages hold the model that was trained, not what Core ML makes of them. Needs coremltools.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError
from causalrn.runtimes.coreml.operators import OPERATORS
from causalrn.runtimes.coreml.package_session import PackageSession
from causalrn.runtimes.coreml.program import Operation, Program, read_program
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array
from causalrn.runtimes.static_session import Shapes


class ProgramSession(PackageSession):
    """A Core ML bundle, evaluated in numpy.

    Args:
        bundle: opened, its hashes checked.

    Raises:
        RuntimeUnavailableError: coremltools is not installed.
        BundleError: the bundle is for another runtime, or a package is not what the manifest says.
    """

    runtime = "coreml-program"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._programs: dict[str, Program] = {}
        folders = set(self._packages.values())
        self._files = tuple(name for name in bundle.manifest.files if name.partition("/")[0] in folders)
        for graph, package in self._packages.items():
            program = read_program(bundle.path / package)
            inputs = {**self.input_shapes(graph), "position": (1,)}
            check_interface(bundle.path / package, program, inputs, self.output_shapes(graph))
            self._programs[graph] = program

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> ProgramSession:
        """As the table of targets opens it."""
        return cls(bundle)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """Files of the packages."""
        return self._files

    def _predict(self, graph: str, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        return evaluate(self._programs[graph], feed)


def check_interface(package: Path, program: Program, inputs: Shapes, outputs: Shapes) -> None:
    """Compare a program's inputs and outputs with the state contract.

    Raises:
        BundleError: other names, shapes or types; "names" are compared as sets, for Core ML goes by name.
    """
    for found, expected in ((program.inputs, inputs), (program.outputs, outputs)):
        if found.keys() != expected.keys():
            raise BundleError(f"{package}: not the inputs and outputs of the manifest: export the bundle again")
        for name, (shape, dtype) in found.items():
            wanted = np.dtype(np.int32 if name in ("tokens", "position") else np.float32)
            if dtype != wanted or shape != expected[name]:
                differs = f"{name} is {dtype} {list(shape)}, expected {wanted} {list(expected[name])}"
                raise BundleError(f"{package}: {differs}: export the bundle again")


def evaluate(program: Program, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a program by name.

    Args:
        feed: inputs by name.

    Raises:
        BundleError: an operation that no cell has.
    """
    values: dict[str, Any] = {**program.constants, **feed}
    with np.errstate(all="ignore"):  # NaN and infinity are what it is asked about
        for operation in program.operations:
            _evaluate(operation, values)
    return {name: values[name] for name in program.outputs}


def _evaluate(operation: Operation, values: dict[str, Any]) -> None:
    operator = OPERATORS.get(operation.kind)
    arguments = {
        key: [_widened(values[name]) for name in names] if key == "values" else _widened(values[names[0]])
        for key, names in operation.inputs.items()
    }
    try:
        if operator is None:
            raise NotImplementedError(operation.kind)
        results = operator(**arguments)
    except (NotImplementedError, TypeError) as error:
        raise BundleError(f"operation {operation.kind} is not one that a converted cell has ({error})") from None
    for (name, dtype), result in zip(
        operation.outputs.items(), results if isinstance(results, list) else [results], strict=True
    ):
        values[name] = result if dtype is None else np.asarray(result).astype(dtype, copy=False)


def _widened(value: Any) -> Any:
    """Floats of 16 bits as float32; others as they are."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value
