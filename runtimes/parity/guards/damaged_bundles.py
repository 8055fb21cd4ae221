"""Copies of a bundle with one kind of damage each: opening them has to be refused before anything runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import json_text, parse_json_object
from causalrn.bundle.manifest import MANIFEST_NAME
from causalrn.errors import CausalRNError
from causalrn.runtimes.parity.figures import GuardFigures

_MOST_COPIED_BYTES = 256 << 20
_Damage = Callable[[Path, Path], None]
"""Called with a file of the bundle, and where to write the damaged one."""


def damaged_bundle_guards(bundle: Path) -> list[GuardFigures]:
    """Try to open damaged copies; nothing of what is undamaged is copied, and one damaged file at a time is written."""
    sizes = {name: entry.size_bytes for name, entry in Bundle.open(bundle).manifest.files.items()}
    return [_guard(bundle, words, name, damage) for words, name, damage in _damages(sizes)]


def _damages(sizes: Mapping[str, int]) -> list[tuple[str, str, _Damage]]:
    """What is done to which file: the largest, and the largest of each kind that a runtime would run."""
    ordered = sorted((name for name, size in sizes.items() if size), key=lambda name: -sizes[name])
    copied = [name for name in ordered if sizes[name] <= _MOST_COPIED_BYTES]
    kinds = {Path(name).suffix: name for name in reversed(copied)}  # of each kind, the largest
    damages: list[tuple[str, str, _Damage]] = []
    for name in kinds.values():
        damages.append((f"one bit of {name} flipped", name, _flip))
    for name in ordered[:1]:
        damages += [(f"{name} a byte short", name, _cut), (f"{name} with a byte more", name, _lengthen)]
        damages.append((f"{name} missing", name, _leave_out))
    damages += [
        ("another hash in the manifest", MANIFEST_NAME, _other_hash),
        ("a manifest of a later version", MANIFEST_NAME, _other_version),
        ("half a manifest", MANIFEST_NAME, _cut_text),
        ("no manifest", MANIFEST_NAME, _leave_out),
    ]
    return damages


def _guard(bundle: Path, words: str, name: str, damage: _Damage) -> GuardFigures:
    with tempfile.TemporaryDirectory(prefix="causalrn-guards-") as place:
        copy = Path(place) / "bundle"
        _link_folder(bundle, copy, leave_out=name)
        damage(bundle / name, copy / name)
        try:
            Bundle.open(copy)
        except CausalRNError:
            return GuardFigures(words, True, "refused")
        except Exception as error:  # whatever reading raises
            return GuardFigures(words, False, f"{type(error).__name__} instead of an error of this package")
    return GuardFigures(words, False, "opened without a word")


def _link_folder(source: Path, target: Path, leave_out: str) -> None:
    """The same files at another place, by links where the system has them; one is left out."""
    target.mkdir()
    for path in source.iterdir():
        if path.name == leave_out:
            continue
        if path.is_dir():
            _link_folder(path, target / path.name, "")
        else:
            _link(path.resolve(), target / path.name)


def _link(path: Path, link: Path) -> None:
    for make in (os.link, os.symlink):
        with contextlib.suppress(OSError):
            make(path, link)
            return
    shutil.copyfile(path, link)


def _flip(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.seek(target.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _cut(source: Path, target: Path) -> None:
    """Holes take no space: only the size is looked at."""
    with target.open("wb") as file:
        file.truncate(source.stat().st_size - 1)


def _lengthen(source: Path, target: Path) -> None:
    with target.open("wb") as file:
        file.truncate(source.stat().st_size + 1)


def _leave_out(source: Path, target: Path) -> None:
    pass


def _other_hash(source: Path, target: Path) -> None:
    data = parse_json_object(source.read_text(encoding="utf-8"), str(source))
    entry = next(iter(data["files"].values()))
    entry["sha256"] = entry["sha256"][::-1] if entry["sha256"] != entry["sha256"][::-1] else "0" * 64
    target.write_text(json_text(data), encoding="utf-8")


def _other_version(source: Path, target: Path) -> None:
    data = parse_json_object(source.read_text(encoding="utf-8"), str(source))
    target.write_text(json_text({**data, "version": data["version"] + 1}), encoding="utf-8")


def _cut_text(source: Path, target: Path) -> None:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
