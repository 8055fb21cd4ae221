"""OpenVINO: runs an ONNX bundle on the processor. Needs numpy and openvino, neither torch nor onnx.

The state lies outside, as for onnxruntime: a snapshot reads it as it is, and a step that fails leaves it whole.
OpenVINO's own states (ReadValue and Assign) give neither; what they save is in docs/openvino.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import BundleError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.checks import check_finite, hides_rows
from causalrn.runtimes.output_shapes import check_outputs, expected_outputs
from causalrn.runtimes.ov.compiled_call import CompiledGraph, Request
from causalrn.runtimes.ov.ov_loading import check_precision, compile_graph, compile_options
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of


class OpenVINOSession(CellSession):
    """An ONNX bundle in OpenVINO.

    Args:
        bundle: opened, its hashes checked.
        precision: a key of :data:`causalrn.bundle.precisions.PRECISIONS`.
        threads: of the one stream in which everything is computed.

    Raises:
        RuntimeUnavailableError: openvino is not installed, cannot compile the bundle, or does not have the precision
            on this processor.
        InputError: a precision that means nothing to the bundle.
        BundleError: the bundle is for another runtime, or damaged.
    """

    runtime = "openvino"

    def __init__(self, bundle: Bundle, *, precision: str = FLOAT32, threads: int = 1) -> None:
        manifest = bundle.manifest
        if manifest.target != "onnx":
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for openvino")
        # what a processor rounds beside the graph stays with the bundle
        origin = StateOrigin.of_bundle(bundle) if precision == FLOAT32 else bundle.sha256
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk)
        check_precision(bundle, precision)
        self.precision, self.threads = precision, threads
        self._options = compile_options(precision, threads)
        self._bundle = bundle
        self._shown: tuple[str, ...] = ()
        self._graphs: dict[tuple[str, tuple[str, ...], bool], CompiledGraph] = {}
        self._loaded: dict[str, None] = {}  # names of the files that were compiled
        self._inputs = ["tokens", "position", *(tensor.input for tensor in self.spec.tensors)]
        self._outputs = ["logits", *(tensor.output for tensor in self.spec.tensors)]
        self._index_dtype = np.dtype(manifest.index_type)
        self._hides_rows = hides_rows(self.card.config, self.spec)
        self._binds = not self.spec.is_own and self.spec.pool != "concat"  # shapes that stay
        self._bound: BoundStep | None = None
        self._graph(manifest.graph_for(batch=1, time=1), single=True)  # what cannot be compiled fails here

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> OpenVINOSession:
        """As the table of targets opens it."""
        return cls(bundle, precision=options.precision, threads=options.threads)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """The graphs that were compiled, and their weights."""
        weights = (WEIGHTS_FILE,) if WEIGHTS_FILE in self._bundle.manifest.files else ()
        return (*self._loaded, *weights)

    def pad_rows(self, time: int) -> int:
        """Rows of zeros behind a growing pool, as the manifest says."""
        return self._bundle.manifest.graphs["step"].pad_rows if time == 1 else 0

    def _graph(self, name: str, *, single: bool = False) -> CompiledGraph:
        """A graph, compiled when it is first needed.

        Args:
            name: in the manifest.
            single: whether it is for one sequence, whose shapes are all known where no pool grows.
        """
        closed = single and not self.spec.has_pool and not self.spec.is_own
        key = name, self._shown, closed
        if key not in self._graphs:
            file = self._bundle.manifest.graphs[name].file
            compiled = compile_graph(self._bundle, file, self._options, self._shown, 1 if closed else None)
            outputs = [*self._outputs, *self._shown]
            self._graphs[key] = CompiledGraph(compiled, self._inputs, outputs, self._bundle.path / file)
            self._loaded[file] = None
        return self._graphs[key]

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        batch, time = tokens.shape
        graph = self._graph(self._bundle.manifest.graph_for(batch, time), single=batch == time == 1)
        ids = tokens.astype(self._index_dtype)
        results = graph.run([ids, np.array(position, self._index_dtype), *state])
        self._check(graph, results, position, batch, time)
        count = len(self._outputs)
        if self._shown:
            self._record_streams(results[count:])
        return results[0], self._checked_rows(results[1:count], time)

    def _check(self, graph: CompiledGraph, results: Sequence[Array], position: int, batch: int, time: int) -> None:
        """Refuse what is not shaped as the contract says, once for each graph."""
        if not graph.knows_shapes:
            vocabulary = self.card.config.vocabulary
            expected = expected_outputs(self.spec, position, batch, time, vocabulary, self.capacity)
            check_outputs(results, expected, self._bundle.path)
            graph.knows_shapes = True

    def _checked_rows(self, rows: Sequence[Array], time: int) -> Sequence[Array]:
        if self._hides_rows:
            check_finite(np.concatenate([value[-time:] for value in rows]))
        return rows

    def _run_step(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        """A step writes into memory that was bound once."""
        if self._shown or not self._binds:
            return self._run(tokens, position, state)
        if self._bound is None or self._bound.batch != self._batch:
            name = self._bundle.manifest.graph_for(self._batch, 1)
            graph = self._graph(name, single=self._batch == 1)
            if not graph.knows_shapes:
                return self._run(tokens, position, state)
            self._bound = BoundStep(self, graph)
        logits, rows = self._bound.run(tokens, position, state)
        return logits, self._checked_rows(rows, 1)

    @property
    def index_dtype(self) -> np.dtype[np.generic]:
        """Of tokens and position."""
        return self._index_dtype

    def _set_probing(self, on: bool) -> None:
        self._shown = self._bundle.manifest.streams if on else ()

    def _release(self) -> None:
        """Release what OpenVINO compiled."""
        self._bound, self._graphs = None, {}


class BoundStep:
    """A step whose inputs and outputs keep their places.

    A state that is replaced has two sets of buffers, each bound as input of one request and output of the other, so
    that a failed step leaves its input whole. Rows that are appended have one set: they are copied into the pool.

    Args:
        session: that steps.
        graph: of its step, for its number of sequences.
    """

    def __init__(self, session: OpenVINOSession, graph: CompiledGraph) -> None:
        self.batch = session.batch
        self._tokens = np.zeros((self.batch, 1), session.index_dtype)
        self._position = np.zeros((), session.index_dtype)
        spec = session.spec
        expected = expected_outputs(spec, 0, self.batch, 1, session.card.config.vocabulary, session.capacity)
        self._logits = np.zeros(expected[0][2], np.float32)
        swaps = all(tensor.update == "replace" for tensor in spec.tensors)
        self._sides = [[np.zeros(shape, dtype) for _, dtype, shape in expected[1:]] for _ in range(1 + swaps)]
        self._requests = [Request(graph) for _ in self._sides]
        for side, request in enumerate(self._requests):
            request.bind_inputs([self._tokens, self._position])
            if swaps:
                request.bind_inputs(self._sides[side], first=2)
            request.bind_outputs([self._logits, *self._sides[side - 1]])
        self._swaps = swaps

    def run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        """One step: logits, a copy; and rows or states, which stay as they are for the next step only.

        Raises:
            BundleError: OpenVINO cannot run it.
        """
        side = self._side_of(state)
        request = self._requests[side]
        if not self._swaps:
            request.bind_inputs(state, first=2)
        self._tokens[...] = tokens
        self._position[...] = position
        request.infer()
        return self._logits.copy(), self._sides[side - 1]

    def _side_of(self, state: Sequence[Array]) -> int:
        """The request that reads this state: whose buffers it lies in; or the first, into which it is copied."""
        for side, buffers in enumerate(self._sides if self._swaps else ()):
            if buffers[0] is state[0]:
                return side
        if self._swaps:
            for mine, given in zip(self._sides[0], state, strict=True):
                mine[...] = given
        return 0
