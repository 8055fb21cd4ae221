"""onnxruntime: runs an ONNX bundle. Needs numpy and onnxruntime, neither torch nor onnx."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import BundleError
from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.cell_slots import RowSlots
from causalrn.runtimes.checks import check_finite, hides_rows, shortened
from causalrn.runtimes.exclusive import exclusive
from causalrn.runtimes.onnx_bytes import with_vector_input
from causalrn.runtimes.ort_loading import load_graph, read_graph, session_options
from causalrn.runtimes.output_shapes import check_outputs, expected_outputs
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.training.card import card_of


class OnnxRuntimeSession(CellSession):
    """An ONNX bundle in onnxruntime.

    Args:
        bundle: opened, its hashes checked.
        provider: a key of :data:`causalrn.runtimes.ort_providers.PROVIDERS`, or what an installed package adds.
            Falling back to another one is an error, never silent.
        threads: threads inside one operator; more than one pays from pools of about 1,000 rows on.
        profile_into: folder for the times of nodes and for graphs as onnxruntime runs them: see :meth:`end_profile`.

    Raises:
        RuntimeUnavailableError: the provider is not there, or this onnxruntime cannot load the bundle's opset.
        BundleError: the bundle is for another runtime.
    """

    runtime = "onnxruntime"

    def __init__(
        self, bundle: Bundle, *, provider: str = "cpu", threads: int = 1, profile_into: Path | None = None
    ) -> None:
        manifest = bundle.manifest
        if manifest.target != "onnx":
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for onnxruntime")
        origin = StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk)
        self.provider, self.threads, self._profile_into = provider, threads, profile_into
        self._step_pad = manifest.graphs["step"].pad_rows
        self._bundle = bundle
        self._shown: tuple[str, ...] = ()
        self._watched: dict[str, Array] | None = None
        self._graphs: dict[tuple[str, tuple[str, ...]], Any] = {}  # by name, and what they give beside their outputs
        self._loaded: dict[str, None] = {}  # names of their files
        self._known_shapes: list[Any] = []  # graphs whose outputs have the shapes of the contract
        self._outputs = ["logits", *(tensor.output for tensor in self.spec.tensors)]
        self._inputs = [tensor.input for tensor in self.spec.tensors]
        self.index_dtype = np.dtype(manifest.index_type)
        self._position_input = np.zeros((), self.index_dtype)
        self._hides_rows = hides_rows(self.card.config, self.spec)
        self._binds = provider == "cpu" and not self.spec.has_pool and not self.spec.is_own
        self._bound: _BoundStep | None = None
        self._row_graph: Any = None
        self._graph(manifest.graph_for(batch=1, time=1))  # what cannot load fails here

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> OnnxRuntimeSession:
        """As the table of targets opens it."""
        return cls(bundle, provider=options.provider, threads=options.threads)

    @property
    def executed_files(self) -> tuple[str, ...]:
        """The graphs that were loaded, and their weights."""
        weights = (WEIGHTS_FILE,) if WEIGHTS_FILE in self._bundle.manifest.files else ()
        return (*self._loaded, *weights)

    def pad_rows(self, time: int) -> int:
        """Rows of zeros behind a growing pool, as the manifest says."""
        return self._step_pad if time == 1 else 0

    def _graph(self, name: str) -> Any:
        """A graph, loaded when it is first needed: a single sequence never needs the step for batches."""
        key = name, self._shown
        if key not in self._graphs:
            file = self._bundle.manifest.graphs[name].file
            options = session_options(self.threads)
            if self._profile_into is not None:
                options.enable_profiling = True
                options.profile_file_prefix = str(self._profile_into / name)
                options.optimized_model_filepath = str(self._profile_into / file)
            graph = load_graph(self._bundle, file, self.provider, options, self._shown)
            inputs, outputs = ({value.name for value in values} for values in (graph.get_inputs(), graph.get_outputs()))
            if inputs != {"tokens", "position", *self._inputs} or not outputs >= set(self._outputs):
                raise BundleError(
                    f"{self._bundle.path / file}: not the inputs and outputs of the manifest: export again"
                )
            self._graphs[key] = graph
            self._loaded[file] = None
        return self._graphs[key]

    def end_profile(self, name: str) -> Path:
        """Stop profiling a graph that has run: the file with onnxruntime's events.

        The graph as onnxruntime ran it lies beside it, under the bundle's name for it.
        """
        return Path(self._graph(name).end_profiling())

    def _run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        graph = self._graph(self._bundle.manifest.graph_for(*tokens.shape))
        self._position_input[...] = position
        feed: dict[str, Any] = dict(zip(self._inputs, state, strict=True))
        feed["tokens"] = tokens.astype(self.index_dtype, copy=False)
        feed["position"] = self._position_input
        results = self._call(graph, [*self._outputs, *self._shown], feed)
        if graph not in self._known_shapes:
            self._check_shapes(results, position, *tokens.shape)
            self._known_shapes.append(graph)
        if self._watched is not None:
            self._watched.update(zip([*self._outputs, *self._shown], results, strict=True))
        elif self._shown:
            self._record_streams(results[len(self._outputs) :])
        rows = results[1 : len(self._outputs)]
        if self._hides_rows:
            check_finite(np.concatenate([value[-tokens.shape[1] :] for value in rows]))
        return results[0], rows

    def _call(self, graph: Any, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[Array]:
        try:
            results: list[Array] = graph.run(outputs, feed)
        except Exception as error:  # onnxruntime's own classes, by version
            raise BundleError(f"{self._bundle.path}: a graph cannot run: {shortened(error)}: export again") from None
        return results

    def _check_shapes(self, results: Sequence[Array], position: int, batch: int, time: int) -> None:
        """Refuse what is not shaped as the contract says, before it reaches the state."""
        vocabulary = self.card.config.vocabulary
        expected = expected_outputs(self.spec, position, batch, time, vocabulary, self.capacity)
        if self._probed is not None:
            width = self.card.config.stream_width
            expected += [(name, "float32", (time * batch, width)) for name in self._shown]
        check_outputs(results, expected, self._bundle.path)

    def _set_probing(self, on: bool) -> None:
        self._shown = self._bundle.manifest.streams if on else ()

    @contextlib.contextmanager
    def watching(self, names: Sequence[str]) -> Iterator[Mapping[str, Array]]:
        """A context in which every call leaves its graph's outputs and further values in the mapping that it gives.

        Of a prefill in several chunks, those of the last chunk.

        Args:
            names: of values inside the graphs; they have to be there in each graph that runs.

        Raises:
            BundleError: by a call whose graph has no such value.
        """
        assert self._probed is None, "a session is probed or watched"
        self._watched, self._shown = {}, tuple(names)
        try:
            yield self._watched
        finally:
            self._watched, self._shown = None, ()

    def _run_step(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        """A step of a constant-size state runs through buffers that are bound once: 1.3x faster than `run`."""
        if not self._binds or self._shown or self._watched is not None:
            return self._run(tokens, position, state)
        if self._bound is None or self._bound.batch != self._batch:
            self._bound = _BoundStep(self, self._graph("step"))
        return self._bound.run(tokens, position, state)

    def slots(self) -> Slots:
        """Sequences at positions of their own; where a position only chooses an embedding, a step takes all at once."""
        if self._row_graph is None and self._takes_rows:
            file, options = self._bundle.manifest.graphs["step"].file, session_options(self.threads)
            with contextlib.suppress(ValueError):  # another tool has written the graph anew
                source = with_vector_input(read_graph(self._bundle, file), "position", self.index_dtype, "B")
                self._row_graph = load_graph(self._bundle, file, self.provider, options, (), source)
        return super().slots() if self._row_graph is None else RowSlots(self)

    @property
    def _takes_rows(self) -> bool:
        """Whether a step could take sequences at positions of their own as rows of a batch."""
        config, file = self.card.config, self._bundle.manifest.graphs["step"].file
        if self.spec.is_own or self.provider != "cpu" or not file.endswith(".onnx"):
            return False
        is_linear = isinstance(config, CausalRNConfig) and config.readout == "linear" and not config.counts_positions
        return not self.spec.has_pool and (is_linear or isinstance(config, TransformerConfig))

    @exclusive
    def step_rows(
        self, tokens: IntArray, positions: IntArray, state: Sequence[Array]
    ) -> tuple[FloatArray, list[Array]]:
        """A step [B, 1] whose rows have positions [B] of their own: logits [B, 1, V], and the next state."""
        feed: dict[str, Any] = dict(zip(self._inputs, state, strict=True))
        feed["tokens"], feed["position"] = tokens.astype(self.index_dtype), positions.astype(self.index_dtype)
        logits, *present = self._call(self._row_graph, self._outputs, feed)
        return logits, present

    def _release(self) -> None:
        """Release onnxruntime's sessions."""
        self._graphs, self._bound, self._row_graph = {}, None, None


class _BoundStep:
    """Two sets of state buffers, each bound as input and the other as output: a failed step leaves its input whole."""

    def __init__(self, session: OnnxRuntimeSession, graph: Any) -> None:
        self.batch = session.batch
        config, self._graph = session.card.config, graph
        self._tokens = np.zeros((self.batch, 1), session.index_dtype)
        self._position = np.zeros((), session.index_dtype)
        self._logits = np.zeros((self.batch, 1, config.vocabulary), np.float32)
        shapes = [tensor.sized(batch=self.batch) for tensor in session.spec.tensors]
        self._sides = [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(2)]
        self._bindings = [self._bind(session, side) for side in range(2)]

    def _bind(self, session: OnnxRuntimeSession, side: int) -> Any:
        binding = self._graph.io_binding()
        inputs: dict[str, Array] = {"tokens": self._tokens, "position": self._position}
        outputs: dict[str, Array] = {"logits": self._logits}
        for tensor, past, present in zip(session.spec.tensors, self._sides[side], self._sides[1 - side], strict=True):
            inputs[tensor.input], outputs[tensor.output] = past, present
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def run(self, tokens: IntArray, position: int, state: Sequence[Array]) -> tuple[FloatArray, Sequence[Array]]:
        side = next((side for side in range(2) if self._sides[side][0] is state[0]), None)
        if side is None:  # the state came from a reset, restore or prefill
            side = 0
            for mine, given in zip(self._sides[0], state, strict=True):
                mine[...] = given
        self._tokens[...] = tokens
        self._position[...] = position
        try:
            self._graph.run_with_iobinding(self._bindings[side])
        except Exception as error:  # onnxruntime's own classes, by version
            raise BundleError(f"the step graph cannot run: {shortened(error)}: export the bundle again") from None
        return self._logits.copy(), self._sides[1 - side]
