"""Folders beside the source: what other languages, and the build systems of microcontrollers, need of it.

bindings/NAME/ has the files of a language as they are; for Go, whose compiler takes C from a package's own folder only,
a module with the source in it. packages/PREFIX/ is one folder for all worlds that were asked for, as libraries that are
for several of them are laid out: source in src/, and around it the files that each looks for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from causalrn.bundle.native_spec import (
    API,
    API_HEADER,
    COMMON_API_HEADER,
    PACKAGE_FOLDER,
    NativeSpec,
    renamed,
)

GOLDEN_HEADER = "golden.h"
_README, _PRELUDE = "README.md", "prelude.h"
_PARTS = {
    "arduino": ("sketch", "arduino"),
    "esp-idf": ("esp-idf",),
    "platformio": ("sketch", "platformio"),
    "zephyr": ("zephyr",),
}
"""Folders of packages/ that make up what a world looks for, beside common/, which all have."""


def write_bindings(folder: Path, native: NativeSpec, names: Sequence[str]) -> None:
    """Write bindings/ into a folder with C source.

    Args:
        names: of :data:`causalrn.bundle.native_spec.BINDINGS`.
    """
    templates = files("causalrn.export.c99") / "bindings"
    for name in names:
        target = folder / "bindings" / name
        prefix = native.prefix if name == "go" else None
        for place, text in _texts(templates / name):
            _write(target / place, text, prefix)
        if name == "go":
            handles = (renamed(file, native.prefix) for file in (API, API_HEADER, COMMON_API_HEADER))
            inline = [native.weights_name] if native.weights == "inline" else []
            for file in (native.source, native.header, *handles, *inline):
                shutil.copyfile(folder / file, target / file)


def write_package(folder: Path, native: NativeSpec) -> None:
    """Write packages/PREFIX/ into a folder with C source, inline weights and :data:`GOLDEN_HEADER`.

    Args:
        native: names the worlds; with none, nothing is written.
    """
    if not native.packages:
        return
    templates = files("causalrn.export.c99") / "packages"
    package = folder / PACKAGE_FOLDER / native.prefix
    readme = ""
    for part in dict.fromkeys(("common", *(part for world in native.packages for part in _PARTS[world]))):
        for place, text in _texts(templates / part):
            if place == _README:
                readme += text
            else:
                _write(package / renamed(place, native.prefix), text, native.prefix)
    _write(package / _README, readme, native.prefix)
    prelude = renamed((templates / _PRELUDE).read_text(encoding="utf-8"), native.prefix)
    _write(package / "src" / native.source, prelude + (folder / native.source).read_text(encoding="utf-8"))
    for file in (native.header, native.weights_name):
        shutil.copyfile(folder / file, package / "src" / file)
    shutil.copyfile(folder / GOLDEN_HEADER, package / "src" / f"{native.prefix}_{GOLDEN_HEADER}")


def _texts(source: Traversable, place: str = "") -> Iterator[tuple[str, str]]:
    """Text files of a folder and those in it, each with its place there."""
    for entry in sorted(source.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _texts(entry, f"{place}{entry.name}/")
        elif entry.is_file():
            yield f"{place}{entry.name}", entry.read_text(encoding="utf-8")


def _write(path: Path, text: str, prefix: str | None = None) -> None:
    """Write a text, with names that begin with `prefix` if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if prefix is None else renamed(text, prefix), encoding="utf-8", newline="\n")
