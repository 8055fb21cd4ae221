"""Export a checkpoint for browsers: what computes it, and the module and page around that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

from causalrn.bundle.bundle_folder import GIT_ATTRIBUTES, KEEP_LINE_ENDS, Bundle
from causalrn.bundle.manifest import MANIFEST_NAME, Manifest
from causalrn.bundle.native_spec import WEB_PROFILE
from causalrn.bundle.quantization import C_SCHEMES
from causalrn.bundle.tolerances import BUDGETS, TIE_PROBABILITY
from causalrn.bundle.web_spec import BESIDE, C_ENGINE, ORT_ENGINE, WebSpec
from causalrn.errors import ConfigError
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.export.web.npm_package import fetch_files
from causalrn.export.web.wasm_builder import MODULES, WASM_SOURCE, build_modules
from causalrn.training.checkpoint import Checkpoint

ORT_WEB_VERSION = "1.30.0"
"""Of onnxruntime-web: the version that the tests run."""

_ORT_FILES = {
    "loader": ("dist/ort.wasm.min.mjs", "ort.js"),
    "glue": ("dist/ort-wasm-simd-threaded.mjs", "ort_wasm.js"),
    "binary": ("dist/ort-wasm-simd-threaded.wasm", "ort_wasm.wasm"),
}
"""By role: a file of the package, and its name in a bundle; .js, for not every server knows .mjs."""


@dataclass(frozen=True)
class WebOptions:
    """How a web bundle is written.

    Attributes:
        engine: one of :data:`causalrn.bundle.web_spec.ENGINES`.
        capacity: most positions; None takes the model's.
        scheme, pool_dtype: of the C engine, as in :class:`causalrn.export.c99.c99_exporter.COptions`.
        beside: another web bundle, which the page shows beside this one.

    Raises:
        ConfigError: onnxruntime-web cannot have what was asked for; or `beside` has a second bundle itself.
    """

    engine: str = C_ENGINE
    capacity: int | None = None
    scheme: str = "float32"
    pool_dtype: str = "float32"
    beside: Bundle | None = None

    def __post_init__(self) -> None:
        if self.engine == ORT_ENGINE and self.is_quantized:
            raise ConfigError(
                "`scheme`, `pool8` and `pool16` are the C engine's: leave them out, or leave out `engine` ort-web"
            )
        if self.scheme not in ("float32", *C_SCHEMES):
            raise ConfigError(f"WebAssembly has no scheme {self.scheme}: choose {' or '.join(C_SCHEMES)}")
        if self.beside is not None and self.beside.manifest.web is None:
            raise ConfigError(f"{self.beside.path} is a bundle for {self.beside.manifest.target}, not for the web")
        if self.beside is not None and self.beside.manifest.folders:
            raise ConfigError(f"{self.beside.path} has a second bundle itself: name one without `beside`")

    @property
    def is_quantized(self) -> bool:
        """Whether anything is not float32."""
        return self.c_options.is_quantized

    @property
    def c_options(self) -> COptions:
        """How the C in it is written."""
        return COptions(self.capacity, self.scheme, self.pool_dtype, profile=WEB_PROFILE)

    @property
    def in_float32(self) -> WebOptions:
        """The same without quantization."""
        return replace(self, scheme="float32", pool_dtype="float32")


def export_web(checkpoint: Checkpoint, folder: Path, options: WebOptions) -> Manifest:
    """Write module, page and what computes the model into an existing folder.

    Returns:
        The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a model or capacity that the engine does not have.
        RuntimeUnavailableError: clang, or for onnxruntime-web npm, is missing or does not work.
    """
    write = _export_c if options.engine == C_ENGINE else _export_ort
    manifest = write(checkpoint, folder, options)
    for name, text in (*_page_files(), (GIT_ATTRIBUTES, KEEP_LINE_ENDS)):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    if options.beside is not None:
        (folder / BESIDE).mkdir()
        for name in (MANIFEST_NAME, *options.beside.manifest.files):
            shutil.copyfile(options.beside.path / name, folder / BESIDE / name)
    return manifest


def _export_c(checkpoint: Checkpoint, folder: Path, options: WebOptions) -> Manifest:
    manifest = export_c(checkpoint, folder, options.c_options)
    (folder / WASM_SOURCE).write_text(_wasm_source(), encoding="utf-8")
    build_modules(folder)
    limits = None
    if manifest.quantization is not None:
        budget = asdict(BUDGETS[options.scheme])
        limits = {name: budget[name] for name in ("kl_divergence", "argmax_changes", "scale", "offset")}
        limits["tie_probability"] = TIE_PROBABILITY
    return replace(manifest, target="web", web=WebSpec(C_ENGINE, MODULES, limits=limits))


def _export_ort(checkpoint: Checkpoint, folder: Path, options: WebOptions) -> Manifest:
    from causalrn.export.onnx_exporter import export_onnx

    manifest = export_onnx(checkpoint, folder, pool="growing", capacity=options.capacity, opset=23)
    fetch_files("onnxruntime-web", ORT_WEB_VERSION, dict(_ORT_FILES.values()), folder)
    modules = {role: name for role, (_, name) in _ORT_FILES.items()}
    return replace(manifest, target="web", web=WebSpec(ORT_ENGINE, modules, ORT_WEB_VERSION))


def _page_files() -> Iterator[tuple[str, str]]:
    """Names and texts of the module and the page."""
    for part in ("module", "page"):
        for file in sorted((files("causalrn.export.web") / part).iterdir(), key=lambda file: file.name):
            yield file.name, file.read_text(encoding="utf-8")


def _wasm_source() -> str:
    return (files("causalrn.export.web") / "source" / WASM_SOURCE).read_text(encoding="utf-8")
