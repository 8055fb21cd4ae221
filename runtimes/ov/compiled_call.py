"""One graph that OpenVINO has compiled, with what is bound to its inputs and outputs.

OpenVINO reads inputs where they lie and writes outputs where it is told to: the memory is numpy's, and has to live as
long as a request knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from causalrn.errors import BundleError
from causalrn.runtimes.checks import shortened
from causalrn.runtimes.ov.ov_loading import import_openvino
from causalrn.runtimes.snapshot import Array


class CompiledGraph:
    """A compiled graph whose inputs and outputs are known by their names.

    Args:
        compiled: what OpenVINO compiled.
        inputs, outputs: names, in the order in which values are given and taken.
        source: of the graph, for errors.

    Raises:
        BundleError: it has other inputs, or lacks an output.
    """

    def __init__(self, compiled: Any, inputs: Sequence[str], outputs: Sequence[str], source: object) -> None:
        self.compiled, self.source, self.count = compiled, source, len(outputs)
        self._inputs = _places(compiled.inputs, inputs)
        self._outputs = _places(compiled.outputs, outputs)
        if len(self._inputs) != len(inputs) or len(compiled.inputs) != len(inputs) or len(self._outputs) < self.count:
            raise BundleError(f"{source}: not the inputs and outputs of the manifest: export again")
        self.knows_shapes = False
        self._free = Request(self)

    @property
    def input_places(self) -> list[int]:
        """Index of each input in the compiled graph."""
        return self._inputs

    @property
    def output_places(self) -> list[int]:
        """Index of each output in the compiled graph."""
        return self._outputs

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Run it on inputs of any shape that it takes: the outputs, copied.

        Raises:
            BundleError: OpenVINO cannot run it.
        """
        self._free.bind_inputs(values)
        try:
            self._free.infer()
            return self._free.copy_outputs()
        finally:
            self._free.forget_inputs()


class Request:
    """One inference request: what is bound stays bound until it is bound anew."""

    def __init__(self, graph: CompiledGraph) -> None:
        self._graph = graph
        self._request = graph.compiled.create_infer_request()
        self._tensor = import_openvino().Tensor
        self._held: dict[int, Array] = {}  # by index of the input: memory that OpenVINO reads
        self._kept: list[Array] = []  # and memory that it writes

    def bind_inputs(self, values: Sequence[Array], first: int = 0) -> None:
        """Let inputs from the `first` on be read where they lie; an array that is bound already is left alone."""
        for place, value in zip(self._graph.input_places[first:], values, strict=False):
            if self._held.get(place) is not value:
                readable = _readable(value)
                tensor = self._tensor(readable, shared_memory=True)
                try:
                    self._request.set_input_tensor(place, tensor)
                except RuntimeError as error:
                    raise self._failure(error) from None
                self._held[place] = readable

    def forget_inputs(self) -> None:
        """Keep no state of a session alive; all inputs have to be bound before the graph runs again."""
        self._held.clear()

    def bind_outputs(self, values: Sequence[Array]) -> None:
        """Let outputs be written into arrays of their shape and type."""
        for place, value in zip(self._graph.output_places, values, strict=True):
            self._request.set_output_tensor(place, self._tensor(value, shared_memory=True))
        self._kept = list(values)

    def infer(self) -> None:
        """Run the graph.

        Raises:
            BundleError: OpenVINO cannot.
        """
        try:
            self._request.infer(share_outputs=True)  # otherwise all outputs are copied into a dictionary
        except RuntimeError as error:
            raise self._failure(error) from None

    def _failure(self, error: RuntimeError) -> BundleError:
        """OpenVINO raises RuntimeError for everything; its first lines name its own sources."""
        return BundleError(f"{self._graph.source}: cannot run: {shortened(error)}: export the bundle again")

    def copy_outputs(self) -> list[Array]:
        """What came out; it stays as it is when the graph runs again."""
        return [np.array(self._request.get_output_tensor(place).data) for place in self._graph.output_places]


def _readable(value: Array) -> Array:
    """The same values as OpenVINO takes them: contiguous, and memory that could be written."""
    fits = value.flags.c_contiguous and value.flags.writeable
    return value if fits else np.array(value, order="C")


def _places(values: Sequence[Any], names: Sequence[str]) -> list[int]:
    by_name = {name: index for index, value in enumerate(values) for name in value.names}
    return [by_name[name] for name in names if name in by_name]
