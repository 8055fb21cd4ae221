"""The graphs of an ONNX bundle in OpenVINO, each as a kernel: one graph alone takes every call that it can take."""

from __future__ import annotations

from functools import partial

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.precisions import FLOAT32
from causalrn.runtimes.kernel_list import Kernel, KernelList
from causalrn.runtimes.ov.compiled_call import CompiledGraph
from causalrn.runtimes.ov.ov_session import OpenVINOSession
from causalrn.runtimes.session_options import SessionOptions

_SINGLE, _PREFILL = "step_single", "prefill"


class OpenVINOGraphSession(OpenVINOSession):
    """An ONNX bundle of which one graph alone is run: a step takes a prefill token by token, a prefill one token.

    Args:
        graph: its name in the manifest.
        bundle, precision, threads: as for :class:`OpenVINOSession`.
    """

    def __init__(self, bundle: Bundle, graph: str, *, precision: str = FLOAT32, threads: int = 1) -> None:
        self._only = graph
        super().__init__(bundle, precision=precision, threads=threads)
        self._binds = self._binds and graph != _PREFILL
        self.max_batch = 1 if graph == _SINGLE else None

    def pad_rows(self, time: int) -> int:
        """Rows of zeros behind a growing pool, as the manifest says of this graph."""
        return self._bundle.manifest.graphs[self._only].pad_rows

    def _graph(self, name: str, *, single: bool = False) -> CompiledGraph:
        return super()._graph(self._only, single=single and self._only != _PREFILL)

    def _chunk_at(self, position: int) -> int:
        return super()._chunk_at(position) if self._only == _PREFILL else 1


def list_graphs(bundle: Bundle, options: SessionOptions) -> KernelList:
    """Every graph of a bundle; nothing is claimed of its threads."""

    def open_graph(name: str, threads: int) -> OpenVINOGraphSession:
        return OpenVINOGraphSession(bundle, name, precision=options.precision, threads=threads)

    weights = (WEIGHTS_FILE,) if WEIGHTS_FILE in bundle.manifest.files else ()
    kernels = [
        Kernel(graph.file, partial(open_graph, name), (graph.file, *weights), few_prefills=name != _PREFILL)
        for name, graph in bundle.manifest.graphs.items()
    ]
    return KernelList(kernels)
