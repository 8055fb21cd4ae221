"""What sessions of Core ML bundles share, in Core ML or in numpy: one call per graph, with values by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.converted_spec import plain_name
from causalrn.errors import BundleError
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.static_session import StaticSession


class PackageSession(StaticSession):
    """A Core ML bundle; a subclass runs its packages.

    Args:
        bundle: opened, its hashes checked.

    Raises:
        BundleError: the bundle is for another runtime.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.target != "coreml":
            raise BundleError(f"{bundle.path}: a bundle for {bundle.manifest.target}, not for Core ML")
        super().__init__(bundle)
        self._packages = {name: graph.file.partition("/")[0] for name, graph in bundle.manifest.graphs.items()}

    @abstractmethod
    def _predict(self, graph: str, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs of a graph for its inputs, both by name."""

    def _call(
        self, graph: str, tokens: IntArray, position: int, state: Sequence[Array]
    ) -> tuple[FloatArray, Sequence[Array]]:
        names = [plain_name(tensor.input) for tensor in self.spec.tensors]
        feed: dict[str, Array] = dict(zip(names, state, strict=True))
        feed |= {"tokens": tokens.astype(np.int32), "position": np.array([position], np.int32)}
        results = self._predict(graph, feed)
        return results["logits"], [np.asarray(results[plain_name(tensor.output)]) for tensor in self.spec.tensors]
