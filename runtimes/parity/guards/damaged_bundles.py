"""Copies of a bundle with one kind of damage each: opening them has to be refused before anything runs."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.json_values import json_text, parse_json_object
from causalrn.bundle.manifest import MANIFEST_NAME, Manifest
from causalrn.errors import BundleError, CausalRNError
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.figures import GuardFigures
from causalrn.runtimes.session_options import SessionOptions

_MOST_COPIED_BYTES = 256 << 20
_Damage = Callable[[Path, Path], None]
"""Called with a file of the bundle, and where to write the damaged one."""


def damaged_bundle_guards(
    bundle: Path, deadline: float = math.inf, runtime: str | None = None
) -> tuple[list[GuardFigures], int]:
    """Try to open damaged copies; nothing of what is undamaged is copied, and one damaged file at a time is written.

    Where a copy without damage is refused, refusals of the others say nothing: then this is the only guard, failed.

    Args:
        bundle: folder.
        deadline: of `time.monotonic`: opening a bundle reads all of it.
        runtime: that has to refuse what only a runtime can; None takes the bundle's default.

    Returns:
        The guards, and how many were left out because there was no time.
    """
    manifest = Bundle.open(bundle).manifest
    sizes = {name: entry.size_bytes for name, entry in manifest.files.items()}
    damages = _damages(sizes)
    if time.monotonic() > deadline:
        return [], len(damages)
    if refused := _refuses_undamaged(bundle):
        return [GuardFigures("an undamaged copy", False, refused)], 0
    figures: list[GuardFigures] = []
    guards = [partial(_guard, bundle, *damage) for damage in damages]
    if WEIGHTS_FILE in sizes and _reads_weights(bundle, manifest):
        guards.append(partial(_sealed_guard, bundle, manifest, runtime))
    for guard in guards:
        if time.monotonic() > deadline:
            break
        figures.append(guard())
    return figures, len(guards) - len(figures)


def _reads_weights(bundle: Path, manifest: Manifest) -> bool:
    """Whether anything reads the file: graphs that other tools have rewritten may hold their weights themselves."""
    graphs = [bundle / graph.file for graph in manifest.graphs.values()]
    return not graphs or any(WEIGHTS_FILE.encode() in path.read_bytes() for path in graphs)


def _sealed_guard(bundle: Path, manifest: Manifest, runtime: str | None) -> GuardFigures:
    """Half of the weights with a manifest that fits: here it is the runtime that has to refuse."""
    with temporary_folder() as place:
        copy = place / "bundle"
        _link_folder(bundle, copy, leave_out=WEIGHTS_FILE)
        (copy / MANIFEST_NAME).unlink()  # a link: the bundle's own stays as it is
        with (bundle / WEIGHTS_FILE).open("rb") as file:
            (copy / WEIGHTS_FILE).write_bytes(
                file.read(min((bundle / WEIGHTS_FILE).stat().st_size // 2, _MOST_COPIED_BYTES))
            )
        hashed = {name: entry for name, entry in manifest.files.items() if name != WEIGHTS_FILE}
        sealed = seal_bundle(copy, manifest, hashed)

        def run() -> None:
            try:
                with open_bundle(sealed, SessionOptions(), runtime) as session:
                    session.prefill([[0]])
            except Exception as error:  # whatever another package's runtime raises is a refusal, too
                raise BundleError(str(error)) from None

        return _refusal(f"half of {WEIGHTS_FILE}, hashes of the manifest made to fit", run)


def _refuses_undamaged(bundle: Path) -> str:
    """Why a copy of links without any damage cannot be opened; empty where it can."""
    with temporary_folder() as place:
        copy = place / "bundle"
        _link_folder(bundle, copy, leave_out="")
        try:
            Bundle.open(copy)
        except Exception as error:  # whatever reading raises
            return f"refused: {error}"
    return ""


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
    with temporary_folder() as place:
        copy = place / "bundle"
        _link_folder(bundle, copy, leave_out=name)
        damage(bundle / name, copy / name)
        return _refusal(words, lambda: Bundle.open(copy))


def _refusal(words: str, call: Callable[[], object]) -> GuardFigures:
    try:
        call()
    except CausalRNError:
        return GuardFigures(words, True, "refused")
    except Exception as error:  # whatever reading raises
        return GuardFigures(words, False, f"{type(error).__name__} instead of an error of this package")
    return GuardFigures(words, False, "opened without a word")


def _link_folder(source: Path, target: Path, leave_out: str) -> None:
    """The same files at another place, by links where the system has them; one, perhaps "FOLDER/NAME", is left out."""
    target.mkdir()
    first, _, inner = leave_out.partition("/")
    for path in source.iterdir():
        if path.is_dir():
            _link_folder(path, target / path.name, inner if path.name == first else "")
        elif path.name == leave_out:
            continue
        else:
            _link(path.resolve(), target / path.name)


def _link(path: Path, link: Path) -> None:
    for make in (os.symlink, os.link):  # onnx reads no weights that have a second name, as long as they have it
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
