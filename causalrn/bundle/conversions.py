"""Targets whose graphs other packages convert from the recurrent cell: what each takes, and what has to be installed.

Needs none of these packages. Adding one is a row of the table of targets (targets.py), a row here, and the function
that it names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from causalrn.errors import RuntimeUnavailableError


@dataclass(frozen=True)
class Conversion:
    """How a target's graphs come about.

    Attributes:
        target: its name, as in the table of targets.
        title: of the package that converts, for people: "ExecuTorch".
        modules: what has to be importable.
        extra: what installs it: "causalrn[executorch]".
        convert: "module:attribute" of what writes the graphs: called with the checkpoint, an existing folder and the
            options (:class:`causalrn.export.converted_graphs.ConvertedOptions`), it gives the manifest.
        backends: what can compute the graphs, by the package's own names, the usual one first.
        pools: kinds of pools that the runtime can carry, the usual one first.
        schemes: quantization schemes that it has.
        quantized_backends: those of the backends that compute quantized graphs; empty for all.
        evaluator: "module:attribute" of what evaluates the graphs where the runtime cannot run: called with the bundle,
            it gives a session; empty where the runtime runs wherever the converter does.
    """

    target: str
    title: str
    modules: tuple[str, ...]
    extra: str
    convert: str
    backends: tuple[str, ...]
    pools: tuple[str, ...] = ("growing", "fixed")
    schemes: tuple[str, ...] = ()
    quantized_backends: tuple[str, ...] = ()
    evaluator: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install '{self.extra}'"

    @property
    def is_installed(self) -> bool:
        """Whether all that it needs is there; nothing is imported."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)

    def check_installed(self) -> None:
        """Say early that something is missing.

        Raises:
            RuntimeUnavailableError: it is; the error says what to install.
        """
        if not self.is_installed:
            raise RuntimeUnavailableError(f"this needs {self.title}, which is not installed: {self.install}")


CONVERSIONS: Mapping[str, Conversion] = {
    row.target: row
    for row in (
        Conversion(
            "executorch",
            "ExecuTorch",
            ("torch", "executorch"),
            "causalrn[executorch]",
            "causalrn.export.executorch.executorch_exporter:export_executorch",
            backends=("xnnpack", "portable"),
            schemes=("w8a8-dynamic",),
            quantized_backends=("xnnpack",),
        ),
        Conversion(
            "litert",
            "LiteRT",
            ("torch", "litert_torch"),
            "causalrn[litert]",
            "causalrn.export.litert.litert_exporter:export_litert",
            backends=("xnnpack",),
            pools=("fixed",),
            schemes=("w8", "w8a8-dynamic"),
        ),
        Conversion(
            "coreml",
            "coremltools",
            ("torch", "coremltools"),
            "causalrn[coreml]",
            "causalrn.export.coreml.coreml_exporter:export_coreml",
            backends=("mlprogram",),
            pools=("fixed",),
            schemes=("fp16",),
            evaluator="causalrn.runtimes.coreml.evaluator_session:ProgramSession",
        ),
    )
}
"""By target."""

BACKENDS = tuple(dict.fromkeys(backend for row in CONVERSIONS.values() for backend in row.backends if row.backends[1:]))
"""Names of all backends, of targets that have a choice."""
