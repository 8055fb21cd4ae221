"""What runtimes share whose graphs have one shape each: a step, and a prefill of so many tokens, for one sequence.

The sequences of a batch run one after another, and what a prefill has left over runs as steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.converted_spec import plain_name
from causalrn.bundle.state_origin import StateOrigin
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of

Shapes = dict[str, tuple[int, ...]]
"""By name, which has "_" where the contract has "."."""


class StaticSession(CellSession):
    """A session over graphs for one sequence; a subclass calls them.

    Args:
        bundle: opened, its hashes checked; its graphs are "step" and "prefill", and its pools, if any, fixed.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        origin = StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk)
        self._axes = [tensor.batch_axis for tensor in self.spec.tensors]

    @abstractmethod
    def _call(
        self, graph: str, tokens: IntArray, position: int, state: Sequence[Array]
    ) -> tuple[FloatArray, Sequence[Array]]:
        """Run a graph for one sequence: logits [1, T, V] and the outputs in the order of the contract."""

    def input_shapes(self, graph: str) -> Shapes:
        """Of a graph's inputs `tokens` and states."""
        states = {plain_name(tensor.input): tensor.sized(batch=1) for tensor in self.spec.tensors}
        return {"tokens": (1, self._time(graph)), **states}

    def output_shapes(self, graph: str) -> Shapes:
        """Of a graph's logits, and of its new rows or states."""
        time = self._time(graph)
        states = {
            plain_name(tensor.output): tensor.given(batch=1, rows=time)
            if tensor.update == "append"
            else tensor.sized(batch=1)
            for tensor in self.spec.tensors
        }
        return {"logits": (1, time, self.card.config.vocabulary), **states}

    def _time(self, graph: str) -> int:
        return self.prefill_chunk if graph == "prefill" else 1

    def next_chunk(self, position: int, left: int) -> int:
        return self.prefill_chunk if left >= self.prefill_chunk else 1

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        batch, time = tokens.shape
        graph = "step" if time == 1 else "prefill"
        if batch == 1:
            return self._call(graph, tokens, position, state)
        singles = [
            self._call(
                graph,
                tokens[row : row + 1],
                position,
                [value.take([row], axis) for value, axis in zip(state, self._axes, strict=True)],
            )
            for row in range(batch)
        ]
        logits = np.concatenate([single[0] for single in singles])
        parts = zip(*(single[1] for single in singles), strict=True)
        return logits, [np.concatenate(part, axis) for part, axis in zip(parts, self._axes, strict=True)]
