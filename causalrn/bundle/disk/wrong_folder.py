"""What is said of a path that is not what a command takes: what it is, and which command takes that."""

from __future__ import annotations

from pathlib import Path

from causalrn.bundle.disk.files import json_object_or_empty

BUNDLE, RUN, EITHER = "a bundle", "a RUN", "a RUN or bundle"
_MARKERS = {"manifest.json": BUNDLE, "config.json": RUN}
_MADE_BY = {
    BUNDLE: "name a bundle, which `export` writes",
    RUN: "name a RUN, which `train` or `convert` writes",
    EITHER: "name a RUN (`train`, `convert`) or a bundle (`export`)",
}
_WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_OF_BUNDLES = "golden.safetensors"
"""What a bundle has beside its manifest, and nothing else has."""
_MOST_ENTRIES = 1000
_TAKEN_BY = {
    BUNDLE: "`verify`, `quantize`, `run`, `bench` and `inspect` take it; its RUN is what `train` or `convert` wrote",
    RUN: "`export` makes a bundle of it; `run`, `bench` and `inspect` take it as it is",
}


def kind_of(path: Path) -> str:
    """:data:`BUNDLE` or :data:`RUN`, as the folder says itself; "" for everything else."""
    for name, kind in _MARKERS.items():
        if str(json_object_or_empty(path / name).get("format", "")).startswith("causalrn-"):
            return kind
    return ""


def describe_wrong(path: Path, wanted: str) -> str:
    """Why a path is not what is wanted, and what to do: one line.

    Args:
        wanted: :data:`BUNDLE`, :data:`RUN` or :data:`EITHER`.

    Example:
        >>> describe_wrong(Path("nowhere"), BUNDLE)
        'nowhere: no such folder: name a bundle, which `export` writes'
    """
    if not path.is_dir():
        if not path.exists():
            return f"{path}: no such folder: {_MADE_BY[wanted]}"
        if path.suffix.lower() in _WEIGHTS:
            return f"{path}: a file of weights, not {wanted}: `convert` makes a RUN of it"
        return f"{path}: a file, not a folder: {_MADE_BY[wanted]}"
    kind = kind_of(path)
    if kind and wanted not in (kind, EITHER):
        return f"{path}: {kind}, not {wanted}: {_TAKEN_BY[kind]}"
    return f"{path}: not {wanted}: {_what_is_in(path, wanted)}"


def _what_is_in(path: Path, wanted: str) -> str:
    """What a folder holds that is neither a RUN nor a bundle."""
    entries = [entry for entry, _ in zip(sorted(path.iterdir()), range(_MOST_ENTRIES), strict=False)]
    inside = {entry: kind_of(entry) for entry in entries if entry.is_dir()}
    fitting = [entry for entry, kind in inside.items() if kind and wanted in (kind, EITHER)]
    if fitting:
        return f"name {' or '.join(str(entry) for entry in fitting[:2])} in it"
    other = next((entry for entry, kind in inside.items() if kind), None)
    if other is not None:
        return f"it holds {inside[other]}, {other}; {_MADE_BY[wanted]}"
    if not entries:
        return f"it is empty; {_MADE_BY[wanted]}"
    if (path / _OF_BUNDLES).exists():
        return "its manifest.json is missing: copy the bundle again, or `export` it again"
    weights = next((entry for entry in entries if entry.suffix.lower() in _WEIGHTS), None)
    if weights is not None:
        return f"it holds weights, {weights.name}: `convert` makes a RUN of them"
    names = {BUNDLE: "no manifest.json", RUN: "no config.json", EITHER: "neither manifest.json nor config.json"}
    return f"it has {names[wanted]}; {_MADE_BY[wanted]}"
