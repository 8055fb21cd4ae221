"""One row of the table of targets: what opens a kind of bundle, and what its runtime promises."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalrn.errors import InputError, RuntimeUnavailableError

CHECKPOINT = "checkpoint"
"""Name of the rows that open a checkpoint folder, not a bundle: PyTorch's."""

ENTRIES = ("engine", "native", "web", "converted")
"""Entries of a manifest that belong to targets; "converted" is shared by those whose graphs are converted."""

EQUALITIES = {
    "repeat": "the same session, run twice",
    "interleaved": "two sessions that take turns, each as if it were alone",
    "resumed": "snapshot in the middle, restored in another session, and the uninterrupted run",
    "threads": "one thread (inside an operator, or of a C bundle), and two",
}
"""What can be equal bit for bit on one machine; a row says what its runtime claims."""


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        name: of the target, as manifests have it: "onnx".
        runtime: name of the runtime that opens it: "onnxruntime".
        title: what a bundle holds, in words: "ONNX graphs".
        session: "module:attribute" of what opens a bundle: called with the bundle
            (:class:`~causalrn.bundle.bundle_folder.Bundle`) and the options
            (:class:`~causalrn.runtimes.session_options.SessionOptions`), it gives a
            :class:`~causalrn.runtimes.session.Session`. The rows of checkpoint folders are called with their path.
        options: fields of the session options that mean something to the runtime.
        max_batch: most sequences; None without a bound, or where the bundle says it.
        equalities: keys of :data:`causalrn.bundle.target.EQUALITIES` that the runtime claims on the CPU.
        entry: the manifest's own entry for this target, one of ``ENTRIES``; None where it has none: other
            packages' targets keep what they need in a file of the bundle.
        has_graphs: whether the bundle holds graphs by name ("step", "prefill").
        has_opset: whether these are ONNX graphs, or were compiled from such.
        shows_streams: whether its sessions can show what happens between blocks
            (:meth:`causalrn.Session.probing`): the level "layer" of `verify`.
        on_cpu: whether the machine's roofline applies to it.
        written_by: the command that writes such a bundle.
        needs: what has to work here to run it: names of what `doctor` tries.
        kernels: "module:attribute" of what lists a bundle's kernels and programs, for the level "kernels" of `verify`:
            called with the bundle and the options, it gives a
            ``causalrn.runtimes.kernel_list.KernelList``. None takes the session as the only kernel.
    """

    name: str
    runtime: str
    title: str
    session: str
    options: tuple[str, ...] = ()
    max_batch: int | None = None
    equalities: tuple[str, ...] = ("repeat", "interleaved", "resumed")
    entry: str | None = None
    has_graphs: bool = False
    has_opset: bool = True
    shows_streams: bool = False
    on_cpu: bool = True
    written_by: str = "export"
    needs: tuple[str, ...] = ()
    kernels: str | None = None

    def __post_init__(self) -> None:
        if self.entry not in (None, *ENTRIES):
            raise InputError(f"target {self.name}: manifests have no entry {self.entry!r}: leave it out")
        unknown = set(self.equalities) - set(EQUALITIES)
        if unknown:
            raise InputError(
                f"target {self.name}: equality {min(unknown)!r} is unknown: choose from {', '.join(EQUALITIES)}"
            )
        if ":" not in self.session:
            raise InputError(f"target {self.name}: session {self.session!r} is not module:attribute")

    @property
    def has_threads(self) -> bool:
        """Whether its runtime has threads inside an operator."""
        return "threads" in self.options

    def load_session(self) -> Callable[..., Any]:
        """What opens a bundle.

        Raises:
            RuntimeUnavailableError: the row names a module or attribute that there is not.
        """
        return self.load(self.session)

    def load(self, place: str) -> Callable[..., Any]:
        """What stands at "module:attribute".

        Raises:
            RuntimeUnavailableError: there is no such module or attribute.
        """
        module, _, attribute = place.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            raise RuntimeUnavailableError(f"target {self.name}: {error}: reinstall the package that adds it") from None
        opener: Callable[..., Any] = found
        return opener
