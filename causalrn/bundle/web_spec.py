"""What the manifest of a web bundle says of what computes in the browser. Needs neither torch nor a browser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

C_ENGINE, ORT_ENGINE = "c", "onnxruntime-web"
ENGINES = (C_ENGINE, ORT_ENGINE)
ENGINE_NAMES = {"c": C_ENGINE, "ort-web": ORT_ENGINE}
"""By their names for people."""
_ROLES = {C_ENGINE: {"simd", "plain"}, ORT_ENGINE: {"loader", "glue", "binary"}}
LIMITS = frozenset({"kl_divergence", "argmax_changes", "tie_probability"})
LATER_LIMITS = frozenset({"scale", "offset"})
"""Bundles of earlier versions are without."""
MODULE = "causalrn.js"
"""The ES module that pages and Node import."""
BESIDE = "beside"
"""Folder of a second bundle, which the page shows beside the first."""


@dataclass(frozen=True)
class WebSpec:
    """What computes a web bundle's model, and how the browser judges its golden vectors.

    Attributes:
        engine: one of :data:`ENGINES`: the bundle's C as WebAssembly, or onnxruntime-web with the bundle's graphs.
        modules: files by role: "simd" and "plain" (WebAssembly with SIMD and without) of C; onnxruntime-web's own.
        version: of onnxruntime-web; None for C.
        limits: :data:`LIMITS` and :data:`LATER_LIMITS`, what a quantized form may lose
            (:mod:`causalrn.bundle.tolerances`); None judges by rounding.
    """

    engine: str
    modules: Mapping[str, str]
    version: str | None = None
    limits: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.engine not in _ROLES:
            raise ValueError(f"web engine {self.engine!r} is unknown")
        if set(self.modules) != _ROLES[self.engine]:
            raise ValueError(f"web modules of {self.engine} are not {', '.join(sorted(_ROLES[self.engine]))}")
        if (self.engine == C_ENGINE) != (self.version is None):
            raise ValueError(f"version {self.version!r} of web engine {self.engine}")
        if self.limits is not None and not (
            self.limits.keys() - LATER_LIMITS == LIMITS and all(map(math.isfinite, self.limits.values()))
        ):
            raise ValueError(f"limits are not numbers {', '.join(sorted(LIMITS))}")

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the bundle cannot do without."""
        return MODULE, *self.modules.values()

    def describe(self) -> str:
        """A few words for people."""
        return "C as WebAssembly" if self.engine == C_ENGINE else f"onnxruntime-web {self.version}"
