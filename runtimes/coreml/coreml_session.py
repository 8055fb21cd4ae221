"""Core ML: runs a bundle's packages, on a Mac. Needs coremltools."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError, NotExecutedError, RuntimeUnavailableError
from causalrn.runtimes.checks import shortened
from causalrn.runtimes.coreml.package_session import PackageSession
from causalrn.runtimes.coreml.program import INSTALL
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array


class CoreMLSession(PackageSession):
    """A Core ML bundle on a Mac's processor.

    Args:
        bundle: opened, its hashes checked.

    Raises:
        NotExecutedError: this is no Mac.
        RuntimeUnavailableError: coremltools is not installed.
        BundleError: the bundle is for another runtime, or Core ML cannot load a package.
    """

    runtime = "coreml"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        if platform.system() != "Darwin":
            raise NotExecutedError("Core ML runs on Apple's systems only: verify the bundle on a Mac")
        try:
            import coremltools
        except ModuleNotFoundError:
            raise RuntimeUnavailableError(f"this needs coremltools, which is not installed: {INSTALL}") from None
        self._models: dict[str, Any] = {}
        for graph, package in self._packages.items():
            try:  # other units round to float16, whatever the program asks for
                units = coremltools.ComputeUnit.CPU_ONLY
                self._models[graph] = coremltools.models.MLModel(str(bundle.path / package), compute_units=units)
            except Exception as error:  # Core ML's own, as RuntimeError and others
                raise BundleError(
                    f"{bundle.path / package}: Core ML cannot load it ({shortened(error)}): export the bundle again"
                ) from None

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> CoreMLSession:
        """As the table of targets opens it."""
        return cls(bundle)

    def _predict(self, graph: str, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        results: Mapping[str, Array] = self._models[graph].predict(feed)
        return results

    def _release(self) -> None:
        """Release the models."""
        self._models = {}
