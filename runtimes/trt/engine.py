"""From an engine bundle to engines that can run here, or to the one reason why they cannot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import written_file
from causalrn.bundle.disk.reading import read_input
from causalrn.bundle.engine_spec import EngineSpec
from causalrn.bundle.trt_flavors import TensorRT, load_flavor, uncollected
from causalrn.errors import (
    DriverMissingError,
    EngineVersionError,
    GpuFailureError,
    InputError,
    MalformedEngineError,
    NotExecutedError,
    UnsupportedGpuError,
)

_AGAIN = "compile the ONNX bundle again with this TensorRT"
_CACHE_NAME = b"causalrn runtime cache "
_CACHE_HEADER = _CACHE_NAME + b"2\n"
"""Then the SHA-256 of what follows it, 32 bytes: it holds code, and TensorRT does not notice everything itself."""
_NO_GPU = "run it on a machine with an NVIDIA GPU and a current driver"


class Engines:
    """The engines of a bundle, and the file in which kernels compiled on this machine are kept.

    Args:
        bundle: opened, its hashes checked.
        runtime_cache: a file that is read if it is there, and written by :meth:`close`; it saves compiling kernels
            again (TensorRT-RTX compiles them when an engine is first run).

    Raises:
        FlavorMissingError, EngineVersionError, MalformedEngineError, DriverMissingError, UnsupportedGpuError: why the
            engines cannot run here, each with its remedy.
    """

    @uncollected()
    def __init__(self, bundle: Bundle, runtime_cache: Path | None = None) -> None:
        assert bundle.manifest.engine is not None
        self._tensorrt = load_flavor(bundle.manifest.engine.flavor)
        check_version(bundle, self._tensorrt)
        self._cache_file, self._kept = runtime_cache, b""
        self._cache: Any = None
        if runtime_cache is not None:
            if not self._tensorrt.flavor.runtime_cache:
                raise InputError(f"{self._tensorrt.flavor.title} has no runtime cache: leave `runtime_cache` out")
            self._kept = read_runtime_cache(runtime_cache)
        try:
            self._runtime = self._tensorrt.api.Runtime(self._tensorrt.logger)
        except Exception:  # the bindings' own, by version; the logger knows why
            raise explain_failure(self._tensorrt, bundle.path) from None
        if bundle.manifest.engine.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # the file carries the runtime of the version that wrote it
        paths = {name: bundle.file(graph.file) for name, graph in bundle.manifest.graphs.items()}
        contents = {path: path.read_bytes() for path in paths.values()}
        self._check_all(contents)
        self._engines = {name: self._load(path, contents[path]) for name, path in paths.items()}

    def _check_all(self, contents: Mapping[Path, bytes]) -> None:
        """What is wrong with a file comes before what is wrong with this machine."""
        unfit: NotExecutedError | None = None
        for path, content in contents.items():
            try:
                check_validity(self._tensorrt, self._runtime, content, path)
            except NotExecutedError as error:
                unfit = unfit or error
        if unfit is not None:
            raise unfit

    def _load(self, path: Path, content: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise explain_failure(self._tensorrt, path)
        return engine

    @uncollected()
    def context(self, graph: str, *, one_shape: bool) -> Any:
        """A new execution context of a graph's engine.

        Args:
            one_shape: whether it will run with one shape only. Kernels of TensorRT-RTX are then compiled for it before
                it first runs; others run with kernels for any shape. By default they would be exchanged in the
                background while it runs, and with them last bits.

        Raises:
            GpuFailureError: the GPU's memory does not suffice, or TensorRT fails otherwise.
        """
        engine = self._engines[graph]
        if self._tensorrt.flavor.runtime_cache:
            config = engine.create_runtime_config()
            config.set_runtime_cache(self._shared_cache(config))
            kinds = self._tensorrt.api.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if one_shape else kinds.NONE
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            reason = _last(self._tensorrt.take_errors())
            raise GpuFailureError(f"no execution context for the {graph} ({reason}): free memory of the GPU, or retry")
        return context

    def _shared_cache(self, config: Any) -> Any:
        """One cache for all contexts."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._kept:
                self._cache.deserialize(self._kept)  # one of another version is left unused, and written anew
        return self._cache

    def close(self) -> None:
        """Write the runtime cache, and release the engines."""
        if self._cache is not None and self._cache_file is not None:
            content = bytes(self._cache.serialize())
            with written_file(self._cache_file) as partial:
                partial.write_bytes(_CACHE_HEADER + hashlib.sha256(content).digest() + content)
        self._engines, self._cache = {}, None


def read_runtime_cache(path: Path) -> bytes:
    """What an earlier session kept in a file; nothing where there is no file yet, or one that is damaged or old.

    Raises:
        InputError: the file is something else, which would be overwritten.
    """
    content = read_input(path, "name another file") if path.exists() else b""
    if content and not content.startswith(_CACHE_NAME):
        raise InputError(f"{path} is no runtime cache: name another file, for it would be overwritten")
    start = len(_CACHE_HEADER) + hashlib.sha256().digest_size
    kept = content[start:]
    return kept if content[:start] == _CACHE_HEADER + hashlib.sha256(kept).digest() else b""


def check_version(bundle: Bundle, tensorrt: TensorRT) -> None:
    """Refuse engines of another version, unless they were compiled to run on newer ones.

    Raises:
        EngineVersionError: they were not.
    """
    spec = bundle.manifest.engine
    assert spec is not None
    if tensorrt.version == spec.version or _is_compatible(spec, tensorrt.version):
        return
    title = tensorrt.flavor.title
    raise EngineVersionError(
        f"{bundle.path}: compiled by {title} {spec.version}, and {tensorrt.version} is installed: {_AGAIN}, or install "
        f"{spec.version}"
    )


def _is_compatible(spec: EngineSpec, version: str) -> bool:
    """TensorRT promises that version-compatible engines run on later versions of the same major one."""
    built, installed = ([int(part) for part in re.findall(r"\d{1,9}", text)[:3]] for text in (spec.version, version))
    return bool(spec.options.get("version_compatible") and built) and installed[0] == built[0] and installed >= built


def check_validity(tensorrt: TensorRT, runtime: Any, content: bytes, path: Path) -> None:
    """Ask TensorRT itself whether it could load an engine here, where it can tell.

    Raises:
        MalformedEngineError, EngineVersionError, DriverMissingError, UnsupportedGpuError, NotExecutedError: it cannot.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, flags = runtime.get_engine_validity(content)
    api = tensorrt.api
    if validity != api.EngineValidity.INVALID:
        return
    kinds, title = api.EngineInvalidityDiagnostics, _named(tensorrt)
    reasons = {
        "MALFORMED_ENGINE": MalformedEngineError(f"{path}: no engine that {title} can read: {_AGAIN}"),
        "VERSION_MISMATCH": EngineVersionError(
            f"{path}: an engine of another version than {_named(tensorrt)}: {_AGAIN}"
        ),
        "UNSUPPORTED_CC": UnsupportedGpuError(
            f"{path}: this GPU's compute capability is not among those that the engine was compiled for: compile again "
            "with `compute_capability` for this GPU"
        ),
        "OLD_CUDA_DRIVER": DriverMissingError(f"{path}: the NVIDIA driver is too old for it: update the driver"),
        "OLD_CUDA_RUNTIME": NotExecutedError(f"{path}: the CUDA runtime is too old for it: update {_named(tensorrt)}"),
        "INSUFFICIENT_GPU_MEMORY": NotExecutedError(f"{path}: the GPU's memory does not suffice: free some of it"),
        "CUDA_ERROR": NotExecutedError(f"{path}: CUDA or the driver is not installed rightly: install them again"),
    }
    for name, error in reasons.items():
        if flags & int(getattr(kinds, name)):
            tensorrt.take_errors()
            raise error
    raise explain_failure(tensorrt, path)


def explain_failure(tensorrt: TensorRT, path: Path) -> Exception:
    """Why TensorRT could not load an engine, from what it logged."""
    errors = tensorrt.take_errors()
    reason, text = _last(errors), " ".join(errors).lower()
    if any(f"cudaerror {code}:" in text for code in (35, 100, 3)) or "driver" in text:
        return DriverMissingError(f"{path}: no NVIDIA GPU, or no driver that is new enough ({reason}): {_NO_GPU}")
    if any(words in text for words in ("compute capability", "unsupported sm", "not supported on this")):
        return UnsupportedGpuError(f"{path}: {_named(tensorrt)} does not run it on this GPU ({reason})")
    if any(words in text for words in ("out of memory", "outofmemory", "cudaerror", "cuda initialization")):
        return NotExecutedError(f"{path}: {_named(tensorrt)} could not load it here ({reason}): see `doctor`")
    if "version" in text:
        return EngineVersionError(f"{path}: {reason}: {_AGAIN}")
    return MalformedEngineError(f"{path}: {_named(tensorrt)} cannot read it ({reason}): {_AGAIN}")


def _named(tensorrt: TensorRT) -> str:
    return f"{tensorrt.flavor.title} {tensorrt.version}"


def _last(errors: list[str]) -> str:
    """The most telling message, cut short: a CUDA error if there is one."""
    for error in errors:
        found = re.search(r"cudaError [0-9]+: [^)]*", error)
        if found:
            return found[0]
    return errors[-1][:160] if errors else "no reason given"
