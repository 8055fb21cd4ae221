"""ExecuTorch: runs a bundle of .pte programs. Needs executorch, and torch, whose tensors its Python interface takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import BundleError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.checks import shortened
from causalrn.runtimes.executorch.library import load_method
from causalrn.runtimes.output_shapes import check_outputs, expected_outputs
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of


class ExecuTorchSession(CellSession):
    """A bundle of ExecuTorch programs, in one thread.

    Args:
        bundle: opened, its hashes checked.

    Raises:
        RuntimeUnavailableError: ExecuTorch or the bundle's backend is not here.
        BundleError: the bundle is for another runtime, or a program cannot be loaded.
    """

    runtime = "executorch"

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        if manifest.target != "executorch" or manifest.converted is None:
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for ExecuTorch")
        origin = StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk)
        self.max_batch = manifest.converted.max_batch
        self.backend = manifest.converted.backend
        self._bundle = bundle
        self._methods: dict[str, Any] = {}
        self._loaded: dict[str, None] = {}  # names of their files, which outlive them
        self._known_shapes: set[str] = set()
        self._method(manifest.graph_for(batch=1, time=1))  # what cannot load fails here

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> ExecuTorchSession:
        """As the table of targets opens it."""
        return cls(bundle)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """The programs that were loaded."""
        return tuple(self._loaded)

    def _method(self, graph: str) -> Any:
        """A graph's program, loaded when it is first needed."""
        if graph not in self._methods:
            path = self._bundle.path / self._bundle.manifest.graphs[graph].file
            method = load_method(path, self.backend)
            given = method.metadata.num_inputs(), method.metadata.num_outputs()
            if given != (2 + len(self.spec.tensors), 1 + len(self.spec.tensors)):
                raise BundleError(f"{path}: not the inputs and outputs of the manifest: export again")
            self._methods[graph] = method
            self._loaded[path.name] = None
        return self._methods[graph]

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        import torch

        graph = self._bundle.manifest.graph_for(*tokens.shape)
        method = self._method(graph)
        given = [torch.from_numpy(np.ascontiguousarray(tokens)), torch.tensor(position)]
        given += [torch.from_numpy(array) for array in state]
        try:
            logits, *rows = (value.numpy() for value in method.execute(given))
        except Exception as error:  # RuntimeError mostly, with a number for the reason
            raise BundleError(f"{self._bundle.path}: {graph} cannot run: {shortened(error)}: export again") from None
        if graph not in self._known_shapes:
            (batch, time), file = tokens.shape, self._bundle.manifest.graphs[graph].file
            vocabulary = self.card.config.vocabulary
            expected = expected_outputs(self.spec, position, batch, time, vocabulary, self.capacity)
            check_outputs([logits, *rows], expected, self._bundle.path / file)
            self._known_shapes.add(graph)
        return logits, rows

    def _release(self) -> None:
        """Release the programs."""
        self._methods = {}
