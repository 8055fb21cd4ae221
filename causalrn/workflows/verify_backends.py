"""The runtimes that `verify` compares over one model, opened as often as they are wanted."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.targets import checkpoint_runtimes, runtimes_of_target
from causalrn.errors import NotExecutedError, RuntimeUnavailableError
from causalrn.runtimes import Session, SessionOptions
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.kernel_list import KernelList, list_kernels
from causalrn.runtimes.opening import open_bundle, open_evaluator, runtime_of, target_of

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.model.cell import RecurrentCell
    from causalrn.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class BackendOpener:
    """Opens sessions over one model: the bundle's, and PyTorch's where there is a checkpoint."""

    bundle: Bundle
    options: SessionOptions
    checkpoint: Checkpoint | None = None

    def open(self, runtime: str, threads: int | None = None) -> Session:
        """A session by the name of its runtime, with so many threads inside one operator."""
        possible = runtimes_of_target(target_of(self.bundle).name)
        if runtime not in (*checkpoint_runtimes(), *possible):
            session = open_evaluator(self.bundle)
            assert session is not None
            return session
        if runtime not in checkpoint_runtimes():
            if threads is None or not target_of(self.bundle, runtime).has_threads:
                return open_bundle(self.bundle, self.options, runtime)
            return open_bundle(self.bundle, dataclasses.replace(self.options, threads=threads), runtime)
        from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession

        assert self.checkpoint is not None
        model, card, owner = self.checkpoint.model, self.checkpoint.card, self.checkpoint.sha256
        if runtime == "parallel":
            return ParallelSession(model, card, owner)
        return RecurrentSession(self._cell, card, owner, threads=threads)

    @functools.cached_property
    def _cell(self) -> RecurrentCell:
        """Folded once; it holds no state, so that all sessions can share it."""
        from causalrn.model.cell import RecurrentCell

        assert self.checkpoint is not None
        return RecurrentCell.from_model(self.checkpoint.model)

    def open_cell(self, runtime: str, threads: int | None) -> CellSession:
        """A session that carries a state."""
        session = self.open(runtime, threads)
        assert isinstance(session, CellSession)
        return session

    def kernels(self, runtime: str) -> KernelList:
        """What the bundle's results can be computed by, in one of its runtimes."""
        return list_kernels(self.bundle, self.options, runtime)

    def graph(self) -> CellSession | None:
        """The bundle's graphs in float64, where there are any and onnx is installed."""
        manifest = self.bundle.manifest
        if manifest.target != "onnx" or manifest.is_ort_format or importlib.util.find_spec("onnx") is None:
            return None
        from causalrn.runtimes.evaluator_session import EvaluatorSession

        return EvaluatorSession(self.bundle)


def open_backends(
    opener: BackendOpener, wanted: Sequence[str], peers: Mapping[str, Session], stack: contextlib.ExitStack
) -> tuple[dict[str, Session], str]:
    """Sessions by runtime, some of which may be open already; and why the bundle's own cannot run here.

    In its place comes what evaluates its graphs, where there is such a thing.
    """
    sessions, not_executed = {}, ""
    for name in wanted:
        try:
            sessions[name] = peers[name] if name in peers else stack.enter_context(opener.open(name))
        except NotExecutedError as error:
            not_executed = str(error)
            try:
                session = open_evaluator(opener.bundle)
            except RuntimeUnavailableError as missing:
                not_executed += f"; nor were its graphs evaluated: {missing}"
                continue
            if session is not None:
                sessions[session.runtime] = stack.enter_context(session)
                not_executed += "; here its graphs were read back and evaluated"
    return sessions, not_executed


def bundle_sources(bundle: Bundle) -> dict[str, str]:
    """The bundle's folder, for each runtime that opens it."""
    return dict.fromkeys(runtimes_of_target(target_of(bundle).name), str(bundle.path))


def repeats_recorded(bundle: Bundle, wanted: Sequence[str]) -> bool:
    """Whether the runtime should repeat what was recorded: another one rounds to other integers, or TF32."""
    engine, conversion = bundle.manifest.engine, CONVERSIONS.get(bundle.manifest.target)
    if any(name != runtime_of(bundle) for name in wanted) or (conversion is not None and conversion.evaluator):
        return False
    return engine is None or (bundle.manifest.quantization is None and not engine.tf32)
