"""What runs lines, as values that other processes can be given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.runtimes.opening import open_bundle, target_of
from causalrn.runtimes.session_options import SessionOptions
from causalrn.serving.bulk.line_runner import Batch, LineRunner
from causalrn.serving.bulk.lines import Defaults, Line
from causalrn.serving.requests import Limits, stop_sequences

RunLines = Callable[[Iterator[Line]], Iterator[Batch]]
"""Gives the answers of lines, in their order."""


@dataclass(frozen=True)
class BulkJob:
    """A bundle, how it runs, and what lines are asked.

    Attributes:
        path: of the bundle.
        runtime: that runs it; None takes its default.
        session: how that runs.
        defaults: settings of lines that have none.
        limits: slots and memory.
    """

    path: Path
    runtime: str | None = None
    session: SessionOptions = field(default_factory=SessionOptions)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)

    @contextlib.contextmanager
    def open(self) -> Iterator[RunLines]:
        """Open the bundle, to run lines on it.

        Raises:
            BundleError: it is missing or damaged; InputError: it does not run so, or cannot spell a stop text.
        """
        with open_bundle(Bundle.open(self.path), self.session, self.runtime) as session:
            stop_sequences(session.card.alphabet, self.defaults.stops)
            with LineRunner(session, self.defaults, self.limits) as runner:
                yield runner.run

    def dependencies(self) -> dict[str, Any]:
        """What an answer depends on beside its line, as JSON values; memory and slots are not among it.

        Raises:
            As :meth:`open`.
        """
        bundle, options = Bundle.open(self.path), self.defaults.options
        choosing = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
        return {
            "bundle": bundle.sha256,
            "runtime": target_of(bundle, self.runtime).runtime,
            **{name: getattr(self.session, name) for name in ("provider", "threads", "precision")},
            **{name: getattr(options, name) for name in choosing},
            "stop": list(self.defaults.stops),
        }
