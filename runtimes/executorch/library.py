"""ExecuTorch's runtime in this process, loaded once: one thread, and quiet."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.library_output import silenced_libraries
from causalrn.runtimes.checks import shortened

_lock = threading.Lock()


@functools.cache
def load_runtime() -> Any:
    """ExecuTorch's runtime, which all sessions of a process share, with one thread.

    Raises:
        RuntimeUnavailableError: it is not installed, or cannot be loaded.
    """
    row = CONVERSIONS["executorch"]
    row.check_installed()
    try:
        with _quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            runtime = Runtime.get()
            # before any program is loaded, for these keep the pool that there is: waiting threads cost more than steps
            portable_lib._unsafe_reset_threadpool(1)
    except Exception as error:  # whatever its libraries raise
        reason = " ".join(str(error).split())
        raise RuntimeUnavailableError(f"{row.title} cannot be loaded ({reason}): reinstall it, {row.install}") from None
    return runtime


def load_method(path: Path, backend: str) -> Any:
    """The method of a program file, ready to be executed.

    Args:
        backend: the manifest's name of what computes it.

    Raises:
        BundleError: the file is no program that this ExecuTorch can load.
        RuntimeUnavailableError: ExecuTorch, or this backend of it, is not here.
    """
    runtime = load_runtime()
    if backend == "xnnpack" and not runtime.backend_registry.is_available("XnnpackBackend"):
        raise RuntimeUnavailableError(
            f"{path}: this ExecuTorch is built without XNNPACK: export with another `backend`"
        )
    try:
        with _quiet():
            return runtime.load_program(path).load_method("forward")
    except Exception as error:  # RuntimeError mostly, with a number for the reason
        raise BundleError(f"{path}: ExecuTorch cannot load it ({shortened(error)}): export the bundle again") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its C++ half writes to standard error how it counts processors, and its Python half warns of its own state."""
    with _lock, warnings.catch_warnings(), silenced_libraries():
        warnings.simplefilter("ignore")
        yield
