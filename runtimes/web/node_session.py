"""A web bundle as a session: the module and the engine that a browser runs, run by Node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, FloatArray, IntArray
from causalrn.runtimes.state_buffers import check_state
from causalrn.runtimes.web.node_process import NodeProcess
from causalrn.training.card import card_of

MODULE_FILES = (
    *("causalrn.js", "bundle_files.js", "breathing.js", "errors.js", "alphabet.js"),
    *("state_shape.js", "state_origin.js", "state_file.js", "safetensors.js"),
)
"""What every engine needs of the module."""
_WHOLE = 1 << 30


class NodeState:
    """The state of a session in Node, where it stays: calls that run the model take or leave all of their tokens."""

    dtype = np.dtype(np.float32)

    def __init__(self, spec: StateSpec, node: NodeProcess) -> None:
        self._spec, self._node = spec, node

    def clear(self, batch: int) -> None:
        """Have a fresh state."""
        self._node.call("reset")

    def reserve(self, rows: int) -> None:
        """Nothing to do: the module makes room."""

    def views(self, position: int, pad_rows: int) -> Sequence[Any]:
        """Nothing goes in with the tokens."""
        return ()

    def update(self, position: int, outputs: Sequence[Any]) -> None:
        """Nothing comes out but logits."""

    def mark(self) -> None:
        """Nothing has to be kept, for no call leaves half of its tokens behind."""

    def truncate(self, position: int, mark: Any) -> None:
        """Nothing to undo."""

    def copies(self, position: int) -> dict[str, Array]:
        """Copies by name."""
        content, tensors, place = self._node.call("snapshot"), {}, 0
        for tensor in self._spec.tensors:
            shape = tensor.given(batch=1, rows=position)
            count, dtype = int(np.prod(shape)), np.dtype(tensor.dtype)
            tensors[tensor.name] = np.frombuffer(content, dtype, count, place).reshape(shape).copy()
            place += count * dtype.itemsize
        return tensors

    def load(self, tensors: Mapping[str, Array], position: int, batch: int) -> None:
        """Replace everything by a snapshot's tensors.

        Raises:
            StateError: they do not fit.
        """
        check_state(self._spec, tensors, position, batch)
        ordered = [tensors[tensor.name] for tensor in self._spec.tensors]
        self._node.call("restore", ordered, position=position, sizes=[array.nbytes for array in ordered])


class NodeSession(CellSession):
    """A web bundle in Node, one sequence at a time: open only bundles that you would run as programs.

    Args:
        bundle: opened, its hashes checked.
        simd: whether its engine with SIMD is used, where there is one and Node takes it.

    Attributes:
        engine: what computes, as the module calls it.

    Raises:
        RuntimeUnavailableError: there is no node, or it cannot run the module.
        BundleError: a bundle of another kind, or one whose files do not fit each other.
    """

    runtime = "node"

    def __init__(self, bundle: Bundle, *, simd: bool = True) -> None:
        manifest = bundle.manifest
        if manifest.web is None:
            raise BundleError(f"{bundle.path}: a bundle for {manifest.target}, not for the web")
        self._rows = manifest.native.rows if manifest.native is not None else _WHOLE
        self._shows_streams = manifest.shows_streams
        self._files = tuple(name for name in MODULE_FILES if name in manifest.files)
        self._node = NodeProcess(bundle.path, simd=simd)
        self.engine = self._node.engine
        store, origin = NodeState(manifest.state, self._node), StateOrigin.of_bundle(bundle)
        super().__init__(card_of(bundle), manifest.state, origin, prefill_chunk=manifest.prefill_chunk, store=store)
        self.max_batch = 1

    @property
    def executed_files(self) -> tuple[str, ...]:
        """Those of the module; which engine was chosen, the level kernels tells."""
        return self._files

    def pad_rows(self, time: int) -> int:
        """None: the module keeps its pools itself."""
        return 0

    def _chunk_at(self, position: int) -> int:
        """The module, and where it shows streams host.mjs, makes parts itself."""
        return _WHOLE

    def _run(self, tokens: IntArray, position: int, state: Sequence[Any]) -> tuple[FloatArray, Sequence[Any]]:
        config, time = self.card.block_config, tokens.shape[1]
        rows = 0 if self._probed is None else self._rows
        content = self._node.call("prefill", [tokens.astype(np.int32)], tokens=time, position=position, rows=rows)
        logits, streams = np.split(np.frombuffer(content, np.float32), [time * config.vocabulary])
        width = (config.blocks + 1) * config.embedding
        for part in np.split(streams, range(rows * width, len(streams), rows * width)) if rows else ():
            self._record_streams(list(part.reshape(config.blocks + 1, -1, config.embedding)))
        return logits.reshape(1, time, config.vocabulary).copy(), ()

    def _set_probing(self, on: bool) -> None:
        if not self._shows_streams:
            raise RuntimeUnavailableError("onnxruntime-web does not show what happens between blocks")
        self._node.call("watch", on=on)

    @classmethod
    def open(cls, bundle: Bundle, options: SessionOptions) -> NodeSession:
        """As the table of targets opens it."""
        return cls(bundle)

    def _release(self) -> None:
        """End the Node process."""
        self._node.close()
