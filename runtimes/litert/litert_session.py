"""LiteRT: runs a .tflite bundle on the CPU. Needs numpy and ai-edge-litert, neither torch nor the converter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import BundleError
from causalrn.runtimes.litert.signatures import Signature, open_interpreter
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.static_session import StaticSession


class LiteRTSession(StaticSession):
    """A LiteRT bundle.

    Args:
        bundle: opened, its hashes checked.
        threads: inside an operator.

    Raises:
        RuntimeUnavailableError: ai-edge-litert is not installed.
        BundleError: the bundle is for another runtime, or its file is not what the manifest says.
    """

    runtime = "litert"

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        manifest = bundle.manifest
        if manifest.target != "litert":
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for LiteRT")
        super().__init__(bundle)
        self._files = tuple(dict.fromkeys(graph.file for graph in manifest.graphs.values()))
        interpreters = {file: open_interpreter(bundle.file(file), threads) for file in self._files}
        self._signatures = {
            name: Signature(
                interpreters[graph.file],
                name,
                {**self.input_shapes(name), "position": ()},
                self.output_shapes(name),
                bundle.path / graph.file,
            )
            for name, graph in manifest.graphs.items()
        }
        self._position_input = np.zeros((), np.int32)

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> LiteRTSession:
        """As the table of targets opens it."""
        return cls(bundle, threads=options.threads)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """The file with all graphs."""
        return self._files

    def _call(
        self, graph: str, tokens: IntArray, position: int, state: Sequence[Array]
    ) -> tuple[FloatArray, Sequence[Array]]:
        self._position_input[...] = position
        logits, *outputs = self._signatures[graph].run([tokens.astype(np.int32), *state, self._position_input])
        return logits, outputs

    def _release(self) -> None:
        """Release the interpreters."""
        self._signatures = {}
