"""A target of one's own: one row of the table, one session. CONTRIBUTING.md walks through it.

Its bundles are ONNX bundles whose manifest says "toy"; the session runs their graphs in onnxruntime with nothing around
it. A real target replaces the graphs by what its runtime loads, and `_run` by a call of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from causalrn import Target
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.state_origin import StateOrigin
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of

TOY = Target("toy", "toyruntime", "toy graphs", "examples.toy_target:ToySession", has_graphs=True)


class ToySession(CellSession):
    """Runs a bundle's graphs; state, chunks of prefill and all-or-nothing updates are the base class's."""

    runtime = "toyruntime"

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        manifest = bundle.manifest
        origin = StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk)
        self._manifest = manifest
        self._graphs: dict[str, Any] = {
            name: onnxruntime.InferenceSession(bundle.file(graph.file), providers=["CPUExecutionProvider"])
            for name, graph in manifest.graphs.items()
        }

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        feed = {tensor.input: value for tensor, value in zip(self.spec.tensors, state, strict=True)}
        feed |= {"tokens": tokens, "position": np.array(position)}
        names = ["logits", *(tensor.output for tensor in self.spec.tensors)]
        logits, *outputs = self._graphs[self._manifest.graph_for(*tokens.shape)].run(names, feed)
        return logits, outputs
