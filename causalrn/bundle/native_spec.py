"""What the manifest of a C bundle says of its source and its weights. Needs neither torch nor a compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from causalrn.bundle.disk.files import WEIGHTS_FILE

LANES = 16
"""Widths are padded with zeros to multiples of this, so that sums run over so many partial sums everywhere."""
INTERFACE = 1
"""CAUSALRN_VERSION of causalrn.h and of weights files: a runtime calls only the one that it knows."""
SOURCE, HEADER, WEIGHTS_HEADER = "causalrn.c", "causalrn.h", "causalrn_weights.h"
THREADS = ("causalrn_threads.c", "causalrn_threads.h")
PLACEMENTS = {"file": WEIGHTS_FILE, "inline": WEIGHTS_HEADER}
"""Where weights stand: in a file that is loaded, or as constant arrays that are compiled in."""
PROFILES = ("generic", "cortex-m")
WEB_PROFILE = "web"
"""Of the source in a web bundle: no threads, no files around it."""


@dataclass(frozen=True)
class NativeSpec:
    """How a C bundle is built, and how large it is.

    Attributes:
        weights: a key of :data:`PLACEMENTS`.
        profile: one of :data:`PROFILES`, or :data:`WEB_PROFILE`: what the defaults in its header are for.
        weights_bytes: of the packed weights.
        rows: of a prefill that are computed together.
        interface: version of its header.
    """

    weights: str
    profile: str
    weights_bytes: int
    rows: int
    interface: int = INTERFACE

    def __post_init__(self) -> None:
        if self.weights not in PLACEMENTS or self.profile not in (*PROFILES, WEB_PROFILE):
            raise ValueError(f"C with weights {self.weights!r} for profile {self.profile!r} is unknown")
        if not all(size > 0 for size in (self.weights_bytes, self.rows, self.interface)):
            raise ValueError("sizes or interface of the C source are no positive integers")

    @property
    def weights_name(self) -> str:
        """Name of the file with the weights."""
        return PLACEMENTS[self.weights]

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the bundle cannot do without."""
        threads = () if self.profile == WEB_PROFILE else THREADS
        return SOURCE, HEADER, *threads, self.weights_name

    @property
    def sources(self) -> list[str]:
        """Those of them that are compiled."""
        return [name for name in self.files if name.endswith((".c", ".h"))]

    def describe(self) -> str:
        """A few words for people."""
        return f"profile {self.profile}, weights in {self.weights_name} ({self.weights_bytes / 1e6:.2f} MB)"


def padded(width: int) -> int:
    """The next multiple of :data:`LANES`."""
    return -(-width // LANES) * LANES


def pad_heads(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """[..., H] -> [..., HP]: zeros behind every head; there may be no rows at all."""
    split = values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads)  # [..., G, D]
    wide = np.zeros((*split.shape[:-1], padded(split.shape[-1])), values.dtype)
    wide[..., : split.shape[-1]] = split
    return wide.reshape(*values.shape[:-1], heads * wide.shape[-1])


def padded_hidden(heads: int, head_width: int) -> int:
    """HP, the width of a row of the state in memory: every head is padded by itself."""
    return heads * padded(head_width)
