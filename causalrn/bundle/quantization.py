"""How a bundle was quantized, as its manifest has it, and how int8 rounds. The schemes are in calibration/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SCHEMES = ("w8", "w4", "w8a8-dynamic", "w8a8", "fp16")
"""Quantization schemes of bundles for ONNX runtimes."""
C_SCHEMES = ("w8", "w8a8-dynamic")
"""Those that C source has, too."""
WEIGHT_ONLY = ("w8", "w4")
FORMS = ("nbits", "qdq")
"""How a weight-only scheme is written in ONNX; in C it is :data:`PACKED`."""
PACKED = "packed"
CALIBRATION_METHODS = ("minmax", "percentile", "entropy")
"""The largest |value|; what all but a few values are below; what loses least information (TensorRT's method)."""

NARROW_POOLS = {"pool8": "int8", "pool16": "float16"}
"""Element types of pool rows that are narrower than float32, by what they are called."""

INT8_LIMIT = 127
"""Largest |int8| that is used: symmetric, so that zero is zero."""
LEAST_LARGEST = 1e-28
"""A scale is that of this largest |value| at least: zeros stay zeros, and no scale is zero, which TensorRT refuses."""


def round_to_int8(values: npt.NDArray[np.floating], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Values as int8, each divided by a scale that the values along `axis` share, and rounded, halves to even.

    A scale is the largest |value| / 127. Rows of int8 pools, weights in ONNX graphs and weights in C are rounded so.

    Args:
        values: finite.
        axis: which axis the scales do not have.

    Returns:
        The int8 values, in the shape of `values`, and the float32 scales, without that axis.

    Example:
        >>> rounded, scale = round_to_int8(np.array([[-63.5, 32.0, 0.25], [0.0, 0.0, 0.0]], np.float32), axis=1)
        >>> rounded.tolist(), scale.tolist()[0]
        ([[-127, 64, 0], [0, 0, 0]], 0.5)
    """
    scale = (np.abs(values).max(axis, initial=LEAST_LARGEST) / INT8_LIMIT).astype(np.float32)
    return np.rint(values / np.expand_dims(scale, axis)).astype(np.int8), scale


def pool_name(dtype: str) -> str:
    """What pool rows of a narrow element type are called, e.g. "pool8"."""
    return next(name for name, narrow in NARROW_POOLS.items() if narrow == dtype)


@dataclass(frozen=True)
class Quantization:
    """How a bundle's weights and state were quantized.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        form: how a weight-only scheme is written, one of :data:`FORMS` or :data:`PACKED`; None for other schemes.
        pool8: whether pools hold int8 rows with a scale per row.
        kept: names of the parts that stayed float32: weights, embedding tables, or "pools".
        source_sha256: hash of the bundle that was quantized; in C, of the checkpoint.
        calibration: for static scales, what they rest on: method, data, sequences and steps.
        pool16: whether pools hold float16 rows although the scheme is not fp16, which has them anyway.
    """

    scheme: str
    form: str | None
    pool8: bool
    kept: tuple[str, ...]
    source_sha256: str
    calibration: Mapping[str, Any] | None = None
    pool16: bool = False

    def __post_init__(self) -> None:
        known = (self.scheme in SCHEMES or (self.scheme == "float32" and (self.pool8 or self.pool16))) and (
            self.form in (*FORMS, PACKED)
        ) == (self.scheme in WEIGHT_ONLY)
        if not known or (self.pool16 and (self.pool8 or self.scheme == "fp16")):
            raise ValueError(f"quantization {self.scheme!r}, form {self.form!r} is unknown")

    @classmethod
    def of(
        cls,
        scheme: str,
        form: str | None,
        pool_dtype: str,
        kept: tuple[str, ...],
        source_sha256: str,
        calibration: Mapping[str, Any] | None = None,
    ) -> Quantization:
        """The same with pools named by their element type: one of :data:`NARROW_POOLS`, or the scheme's own."""
        flags = {name: pool_dtype == dtype for name, dtype in NARROW_POOLS.items()}
        return cls(scheme, form, kept=kept, source_sha256=source_sha256, calibration=calibration, **flags)

    @property
    def pool_dtype(self) -> str | None:
        """Element type of pools that was asked for beside the scheme; None where they are as the scheme has them."""
        return next((dtype for name, dtype in NARROW_POOLS.items() if getattr(self, name)), None)

    @property
    def pool_names(self) -> tuple[str, ...]:
        """What was asked for beside the scheme, by name: ("pool8",), ("pool16",) or ()."""
        return tuple(name for name in NARROW_POOLS if getattr(self, name))

    def fits_pools(self, dtype: str) -> bool:
        """Whether pools, or what a state has in their place, can have this element type."""
        by_scheme = ("float32", "float16") if self.scheme == "fp16" else ("float32",)
        return dtype in (by_scheme if self.pool_dtype is None else (self.pool_dtype,))

    def describe(self) -> str:
        """A few words for people, e.g. "w8 (nbits), pool8"."""
        form = "" if self.form is None else f" ({self.form})"
        words = [] if self.scheme == "float32" else [self.scheme + form]
        words += self.pool_names
        words += [f"{len(self.kept)} kept in float32"] if self.kept else []
        return ", ".join(words)
