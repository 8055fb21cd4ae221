"""What the manifest of a C bundle says of its source and its weights. Needs neither torch nor a compiler."""

from __future__ import annotations

import re
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
API, API_HEADER, COMMON_API_HEADER = "causalrn_api.c", "causalrn_api.h", "crn_api.h"
"""Handles, for programs and other languages; the last one is the same for all models."""
THREADS = ("causalrn_threads.c", "causalrn_threads.h")
PLACEMENTS = ("file", "inline")
"""Where weights stand: in a file that is loaded, or as constant arrays that are compiled in."""
PREFIX = "causalrn"
"""Of names of C source: of its files, functions, types, build targets, and in capitals of its macros."""
BINDINGS = ("cpp", "go", "python", "rust")
"""Languages for which there is one over the handles."""
PACKAGES = ("arduino", "esp-idf", "platformio", "zephyr")
"""Worlds of microcontrollers whose build systems take a folder that is laid out in their way."""
PACKAGE_FOLDER = "packages"
"""Where it lies in a bundle, in a folder of the prefix's name; one for all of them."""
_PREFIXES = re.compile(r"[a-z][a-z0-9_]{0,38}[a-z0-9]")
_RESERVED = ("crn", "golden", "example", "selftest", "lib")
_NAMES = re.compile(r"causalrn(?![-\\])|CAUSALRN")  # not in commands, formats and configurations
PROFILES = ("generic", "cortex-m")
WEB_PROFILE = "web"
"""Of the source in a web bundle: no threads, no files around it."""


@dataclass(frozen=True)
class NativeSpec:
    """How a C bundle is built, and how large it is.

    Attributes:
        weights: one of :data:`PLACEMENTS`.
        profile: one of :data:`PROFILES`, or :data:`WEB_PROFILE`: what the defaults in its header are for.
        weights_bytes: of the packed weights.
        rows: of a prefill that are computed together.
        interface: version of its header.
        prefix: of its names: :data:`PREFIX`, or another one, so that several models fit into one program.
        packages: of :data:`PACKAGES`, for which there is a folder.
    """

    weights: str
    profile: str
    weights_bytes: int
    rows: int
    interface: int = INTERFACE
    prefix: str = PREFIX
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_prefix(self.prefix):
            raise ValueError(f"C source with names that begin with {self.prefix!r} cannot be")
        if self.weights not in PLACEMENTS or self.profile not in (*PROFILES, WEB_PROFILE):
            raise ValueError(f"C with weights {self.weights!r} for profile {self.profile!r} is unknown")
        if any(name not in PACKAGES for name in self.packages) or (self.packages and self.weights != "inline"):
            raise ValueError(f"C with weights {self.weights!r} in packages for {self.packages!r} is unknown")
        if not all(size > 0 for size in (self.weights_bytes, self.rows, self.interface)):
            raise ValueError("sizes or interface of the C source are no positive integers")

    @property
    def source(self) -> str:
        """Name of the file with the cell."""
        return renamed(SOURCE, self.prefix)

    @property
    def header(self) -> str:
        """Name of its header."""
        return renamed(HEADER, self.prefix)

    @property
    def threads(self) -> tuple[str, ...]:
        """Names of the files with threads."""
        return () if self.profile == WEB_PROFILE else tuple(renamed(name, self.prefix) for name in THREADS)

    @property
    def weights_name(self) -> str:
        """Name of the file with the weights."""
        return WEIGHTS_FILE if self.weights == "file" else renamed(WEIGHTS_HEADER, self.prefix)

    @property
    def cell_files(self) -> tuple[str, ...]:
        """Files without which there is no cell; threads have nothing to do unless pools are long."""
        return self.source, self.header, self.weights_name

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the bundle cannot do without."""
        return self.source, self.header, *self.threads, self.weights_name

    @property
    def sources(self) -> list[str]:
        """Those of them that are compiled."""
        return [name for name in self.files if name.endswith((".c", ".h"))]

    def describe(self) -> str:
        """A few words for people."""
        packages = f", packages for {', '.join(self.packages)}" if self.packages else ""
        return f"profile {self.profile}, weights in {self.weights_name} ({self.weights_bytes / 1e6:.2f} MB){packages}"


def is_prefix(name: str) -> bool:
    """Whether names of C source can begin so: in lower case, and nothing that its files are called anyway."""
    return _PREFIXES.fullmatch(name) is not None and name not in _RESERVED


def renamed(text: str, prefix: str) -> str:
    """C source, or the name of a file, with all its names beginning with `prefix`.

    Example:
        >>> renamed("causalrn_open(CAUSALRN_ROWS) by causalrn-export", "copier")
        'copier_open(COPIER_ROWS) by causalrn-export'
    """
    return _NAMES.sub(lambda found: prefix.upper() if found[0].isupper() else prefix, text)


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
