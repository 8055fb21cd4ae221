"""The forms of a model that `verify` compares, opened as often as they are wanted."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import NotExecutedError
from causalrn.runtimes import Session, SessionOptions
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.opening import RUN_RUNTIMES, WITHOUT_THREADS, open_bundle

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.model.cell import RecurrentCell
    from causalrn.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class FormOpener:
    """Opens forms of one model, as often as they are wanted."""

    bundle: Bundle
    options: SessionOptions
    checkpoint: Checkpoint | None = None

    def open(self, name: str, threads: int | None = None) -> Session:
        """A form by the name of its runtime, with so many threads inside one operator."""
        if name not in RUN_RUNTIMES:
            if threads is None or name in WITHOUT_THREADS:
                return open_bundle(self.bundle, self.options)
            return open_bundle(self.bundle, dataclasses.replace(self.options, threads=threads))
        from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession

        assert self.checkpoint is not None
        model, card, owner = self.checkpoint.model, self.checkpoint.card, self.checkpoint.sha256
        if name == "parallel":
            return ParallelSession(model, card, owner)
        return RecurrentSession(self._cell, card, owner, threads=threads)

    @functools.cached_property
    def _cell(self) -> RecurrentCell:
        """Folded once; it holds no state, so that all sessions can share it."""
        from causalrn.model.cell import RecurrentCell

        assert self.checkpoint is not None
        return RecurrentCell.from_model(self.checkpoint.model)

    def open_cell(self, name: str, threads: int | None) -> CellSession:
        """A form that carries a state."""
        session = self.open(name, threads)
        assert isinstance(session, CellSession)
        return session

    def graph(self) -> CellSession | None:
        """The bundle's graphs in float64, where there are any and onnx is installed."""
        if self.bundle.manifest.target != "onnx" or importlib.util.find_spec("onnx") is None:
            return None
        from causalrn.runtimes.evaluator_session import EvaluatorSession

        return EvaluatorSession(self.bundle)


def open_forms(
    opener: FormOpener, wanted: Sequence[str], peers: Mapping[str, Session], stack: contextlib.ExitStack
) -> tuple[dict[str, Session], str]:
    """Sessions of the forms to verify, some of which may be open already; and why a compiled one cannot run here."""
    forms, not_executed = {}, ""
    for name in wanted:
        try:
            forms[name] = peers[name] if name in peers else stack.enter_context(opener.open(name))
        except NotExecutedError as error:
            not_executed = str(error)
    return forms, not_executed
