"""The two kinds of TensorRT: which are there, how they are imported, and what only one of them can do."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from causalrn.errors import FlavorMissingError

_KEPT_MESSAGES = 20

HARDWARE_LEVELS = {
    "none": "NONE",
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""Values of `hardware_compatibility`, as trtexec calls them, and the API's names."""


@dataclass(frozen=True)
class Flavor:
    """A kind of TensorRT.

    Attributes:
        name: as `compile` and manifests have it.
        title: as NVIDIA calls it.
        module: what Python imports.
        extra: of causalrn, what installs it.
        least_version: oldest version that is supported; in older ones precision is a builder flag.
        compute_capabilities: that an engine can be compiled for by name, on any machine.
        runtime_cache: whether kernels are compiled when an engine is first run, and can be kept in a file.
        tuned: whether building times kernels on the GPU: then it needs one, and can keep what it found in a file.
    """

    name: str
    title: str
    module: str
    extra: str
    least_version: tuple[int, int]
    compute_capabilities: tuple[str, ...]
    runtime_cache: bool
    tuned: bool

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'causalrn[{self.extra}]'"

    @property
    def is_installed(self) -> bool:
        """Whether Python finds it; it is not imported."""
        return importlib.util.find_spec(self.module) is not None


RTX = Flavor(
    "rtx",
    "TensorRT-RTX",
    "tensorrt_rtx",
    "tensorrt-rtx",
    (1, 5),
    ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    runtime_cache=True,
    tuned=False,
)
TRT = Flavor("trt", "TensorRT", "tensorrt", "tensorrt", (11, 0), (), runtime_cache=False, tuned=True)
FLAVORS = {flavor.name: flavor for flavor in (RTX, TRT)}


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes:
        api: the module.
        logger: what every object of the API wants; it keeps the last messages.
    """

    flavor: Flavor
    api: ModuleType
    logger: Any

    @property
    def version(self) -> str:
        """Of TensorRT itself."""
        return str(self.api.__version__)

    def take_errors(self) -> list[str]:
        """What went wrong since this was last asked."""
        found = list(self.logger.errors)
        self.logger.errors.clear()
        return found


def load_flavor(name: str) -> TensorRT:
    """Import one of :data:`FLAVORS`.

    Raises:
        FlavorMissingError: it is not installed, too old, or cannot be imported; the error says what to install.
    """
    flavor = FLAVORS[name]
    if not flavor.is_installed:
        raise FlavorMissingError(f"this needs {flavor.title}, which is not installed: {_remedy(name)}")
    try:
        api = importlib.import_module(flavor.module)
        found = tuple(int(part) for part in api.__version__.split(".")[:2])
    except Exception as error:  # whatever its modules and libraries raise
        reason = " ".join(str(error).split())
        raise FlavorMissingError(
            f"{flavor.title} is installed and cannot be imported ({reason}): reinstall it, {flavor.install}"
        ) from None
    if found < flavor.least_version:
        least = ".".join(map(str, flavor.least_version))
        raise FlavorMissingError(f"{flavor.title} {api.__version__} is too old: {flavor.install}, {least} or newer")
    return TensorRT(flavor, api, _make_logger(api))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """A context, or decorator, in which Python collects no garbage: for whatever makes TensorRT log.

    TensorRT-RTX 1.7 holds a lock of the process while it calls a logger, and an object of its API that Python's
    collector frees there waits for the same lock, for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _remedy(name: str) -> str:
    others = [flavor for flavor in FLAVORS.values() if flavor.name != name and flavor.is_installed]
    there = f"; {others[0].title} is installed: `flavor` {others[0].name} is for it" if others else ""
    return FLAVORS[name].install + there


def _make_logger(api: ModuleType) -> Any:
    """A logger that keeps errors instead of printing them; its base class is the module's own."""
    base: Any = api.ILogger

    class Logger(base):  # type: ignore[misc] # known at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= base.ERROR:
                self.errors.append(" ".join(text.split()))
                del self.errors[:-_KEPT_MESSAGES]

    return Logger()
