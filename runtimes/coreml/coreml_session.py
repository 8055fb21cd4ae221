"""Core ML: runs a bundle's packages, on a Mac. Needs coremltools."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.converted_spec import plain_name
from causalrn.errors import BundleError, NotExecutedError, RuntimeUnavailableError
from causalrn.runtimes.coreml.evaluator_session import check_target, packages
from causalrn.runtimes.coreml.program import INSTALL
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.static_session import StaticSession


class CoreMLSession(StaticSession):
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
        check_target(bundle)
        super().__init__(bundle)
        if platform.system() != "Darwin":
            raise NotExecutedError("Core ML runs on Apple's systems only: verify the bundle on a Mac")
        try:
            import coremltools
        except ModuleNotFoundError:
            raise RuntimeUnavailableError(f"this needs coremltools, which is not installed: {INSTALL}") from None
        self._models: dict[str, Any] = {}
        for graph, package in zip(bundle.manifest.graphs, packages(bundle), strict=True):
            try:  # other units round to float16, whatever the program asks for
                units = coremltools.ComputeUnit.CPU_ONLY
                self._models[graph] = coremltools.models.MLModel(str(bundle.path / package), compute_units=units)
            except Exception as error:  # Core ML's own, as RuntimeError and others
                reason = " ".join(str(error).split())[:160]
                raise BundleError(
                    f"{bundle.path / package}: Core ML cannot load it ({reason}): export the bundle again"
                ) from None

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> CoreMLSession:
        """As the table of targets opens it."""
        return cls(bundle)

    def _call(
        self, graph: str, tokens: IntArray, position: int, state: Sequence[Array]
    ) -> tuple[FloatArray, Sequence[Array]]:
        names = [plain_name(tensor.input) for tensor in self.spec.tensors]
        feed: dict[str, Array] = dict(zip(names, state, strict=True))
        feed |= {"tokens": tokens.astype(np.int32), "position": np.array([position], np.int32)}
        results = self._models[graph].predict(feed)
        return results["logits"], [np.asarray(results[plain_name(tensor.output)]) for tensor in self.spec.tensors]

    def _release(self) -> None:
        """Release the models."""
        self._models = {}
