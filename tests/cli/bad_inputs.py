"""Tables of bad inputs: what is damaged, how, and which command is asked to read it. The test is in test_bad_inputs.py.

Arguments in capitals stand for places: RUN, BUNDLE, C and WEB are copies that a row may damage, FILE is a file of the
row's own, OUT an output that must not appear.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.json_values import json_text, own_hash

Damage = Callable[[Path], None]
"""Makes a file, or puts something else in its place."""


@dataclass(frozen=True)
class Row:
    """A bad input.

    Attributes:
        name: what is damaged, and how.
        arguments: of the command.
        damage: done to the place below, before the command is called.
        place: FILE, or a folder and the name of a file in it.
        words: that the one line has.
    """

    name: str
    arguments: tuple[str, ...]
    damage: Damage | None = None
    place: str = "FILE"
    words: tuple[str, ...] = ()


# --- what may lie where a file should be ----------------------------------------------------------------------------


def _content(content: bytes) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def _replace(make: Damage) -> Damage:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


def _cut(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b"12345678"
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes() if path.exists() else b"12345678")
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _huge(path: Path) -> None:
    """A terabyte of zeros behind what is there, which takes no place on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing of use")


ANYTHING: Mapping[str, Damage] = {
    "missing": lambda path: path.unlink(missing_ok=True),
    "a folder": _replace(lambda path: path.mkdir()),
    "a pipe": _replace(lambda path: os.mkfifo(path)),
    "a device": _replace(lambda path: path.symlink_to("/dev/zero")),
    "a link to nowhere": _replace(lambda path: path.symlink_to("nowhere")),
    "a circle of links": _replace(lambda path: path.symlink_to(path.name)),
    "empty": _content(b""),
    "cut": _cut,
    "of one changed byte": _flip,
    "a terabyte": _huge,
    "text": _content(b"not what it should be\n"),
    "bytes": _content(bytes(range(256)) * 4),
    "another archive": _replace(_archive),
    "brackets": _content(("[" * 100_000).encode()),
    "another JSON": _content(b'{"format": "other", "version": 1, "report": "other"}'),
}
"""By what is there instead of the file."""
_BYTES_OF_ANY_KIND = {"text", "bytes", "brackets", "another JSON", "of one changed byte", "another archive", "cut"}

READERS: Mapping[str, tuple[str, tuple[str, ...], frozenset[str]]] = {
    "state file": ("FILE", ("run", "BUNDLE", "--state-in", "FILE"), frozenset()),
    "token ids": ("FILE", ("run", "BUNDLE", "--input-ids", "FILE", "--logits", "OUT"), frozenset()),
    "calibration data": (
        "FILE",
        ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8a8", "--load-inputs", "FILE"),
        frozenset(),
    ),
    "calibration table": (
        "FILE",
        ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8a8", "--calibration", "FILE"),
        frozenset(),
    ),
    "certificate": ("FILE", ("inspect", "BUNDLE", "--certificate", "FILE"), frozenset()),
    "earlier report": ("FILE", ("bench", "BUNDLE", "--against", "FILE"), frozenset()),
    "machine": ("FILE", ("bench", "BUNDLE", "--predict", "--device", "FILE"), frozenset()),
    "weights to convert": ("FILE", ("convert", "FILE", "-o", "OUT", "--readout", "exact"), frozenset()),
    "recorded logits": ("FILE", ("convert", "PTH", "-o", "OUT", "--reference", "FILE"), frozenset()),
    "tokens to compare on": ("FILE", ("convert", "PTH", "-o", "OUT", "--tokens", "FILE"), frozenset()),
    "text to train on": (
        "FILE",
        ("train", "--task", "text", "--text", "FILE", "-o", "OUT"),
        frozenset(_BYTES_OF_ANY_KIND | {"a terabyte"}),
    ),
    "manifest, run": ("BUNDLE/manifest.json", ("run", "BUNDLE", "--prompt", "a"), frozenset()),
    "manifest, verify": ("BUNDLE/manifest.json", ("verify", "BUNDLE"), frozenset()),
    "manifest, reseal": ("BUNDLE/manifest.json", ("reseal", "BUNDLE", "--checkpoint", "RUN"), frozenset()),
    "manifest, quantize": (
        "BUNDLE/manifest.json",
        ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8"),
        frozenset(),
    ),
    "graph": ("BUNDLE/step.onnx", ("run", "BUNDLE", "--prompt", "a"), frozenset()),
    "changed graph": ("BUNDLE/step.onnx", ("reseal", "BUNDLE", "--checkpoint", "RUN"), frozenset()),
    "weights of a bundle": ("BUNDLE/weights.bin", ("inspect", "BUNDLE"), frozenset()),
    "golden vectors": ("BUNDLE/golden.safetensors", ("verify", "BUNDLE"), frozenset()),
    "configuration, run": ("RUN/config.json", ("run", "RUN", "--prompt", "a"), frozenset()),
    "configuration, export": ("RUN/config.json", ("export", "RUN", "-o", "OUT"), frozenset()),
    "weights of a RUN": ("RUN/model.safetensors", ("export", "RUN", "-o", "OUT"), frozenset()),
    "weights of a checkpoint": (
        "RUN/model.safetensors",
        ("verify", "BUNDLE", "--checkpoint", "RUN"),
        frozenset(),
    ),
}
"""By kind of file: where it lies, which command reads it, and the damages that it may have."""


def rows_of_anything() -> Iterator[Row]:
    """Every kind of file, replaced by anything."""
    for kind, (place, arguments, allowed) in READERS.items():
        for what, damage in ANYTHING.items():
            if what not in allowed:
                yield Row(f"{kind}: {what}", arguments, damage, place)


# --- JSON whose own hash fits ---------------------------------------------------------------------------------------

_HUGE_SIZES = {"embedding": 10_000, "hidden": 10_000}
_MODELS: Mapping[str, dict[str, Any]] = {
    "blocks 1e9": {"blocks": 10**9},
    "blocks 9,999": {"blocks": 9_999},
    "E = H = 10,000": _HUGE_SIZES,
    "vocabulary 1e9": {"vocabulary": 10**9},
    "vocabulary 1e30": {"vocabulary": 10**30},
    "capacity 1e9": {"capacity": 10**9},
    "capacity -1": {"capacity": -1},
    "no capacity": {"capacity": None},
    "hidden 0": {"hidden": 0},
    "hidden of text": {"hidden": "many"},
    "hidden 3.5": {"hidden": 3.5},
    "heads 1e9": {"heads": 10**9},
    "another readout": {"readout": "abacus"},
    "another architecture": {"architecture": "abacus"},
    "an unknown entry": {"colour": "red"},
    "an eps that is no number": {"norm_eps": float("nan")},
    "an eps of 7": {"norm_eps": 7},
}
_CARDS: Mapping[str, dict[str, Any]] = {
    "a task of length 1e9": {"task": {"name": "copy", "length": 10**9}},
    "a task longer than the model": {"task": {"name": "copy", "length": 1000}},
    "a task of length -1": {"task": {"name": "copy", "length": -1}},
    "an unknown task": {"task": {"name": "abacus", "length": 3}},
    "a task that is a list": {"task": []},
    "an unknown alphabet": {"alphabet": "runes"},
    "the other alphabet": {"alphabet": "bytes"},
    "a model that is a list": {"model": []},
    "version 99": {"version": 99},
    "version true": {"version": True},
    "another format": {"format": "causalrn-other"},
    "a known_by of numbers": {"known_by": 5},
}
_MANIFESTS: Mapping[str, dict[str, Any]] = {
    "no files": {"files": {}},
    "files of text": {"files": "all"},
    "a file outside": {"files": {"../secret": {"sha256": "0" * 64, "size_bytes": 1}}},
    "a file of -1 bytes": {"files": {"step.onnx": {"sha256": "0" * 64, "size_bytes": -1}}},
    "graphs of numbers": {"graphs": {"step": 5}},
    "no graphs": {"graphs": {}},
    "a prefill chunk of 1e9": {"prefill_chunk": 10**9},
    "a prefill chunk of 0": {"prefill_chunk": 0},
    "a state without tensors": {"state": {"pool": "growing", "tensors": []}},
    "streams of 1e5": {"streams": [f"stream.{i}" for i in range(100_000)]},
    "an opset of text": {"opset": "new"},
    "folders": {"folders": {"../other": "0" * 64}},
    "a web entry": {"web": {"engine": "c", "modules": {}}},
}


def _edited(changes: Mapping[str, Any], inside: str | None = None, own: str | None = None) -> Damage:
    """Change entries of a JSON file, and make its own hash fit again."""

    def damage(path: Path) -> None:
        data = json.loads(path.read_text())
        target = data if inside is None else data[inside]
        target.update(changes)
        if own is not None:
            data[own] = own_hash(data, own)
        path.write_text(json.dumps(data))

    return damage


def rows_of_json() -> Iterator[Row]:
    """Configurations and manifests that say what cannot be, in files that are whole."""
    run, bundle = ("export", "RUN", "-o", "OUT"), ("run", "BUNDLE", "--prompt", "a")
    for what, changes in _MODELS.items():
        yield Row(f"configuration: {what}", run, _edited(changes, "model"), "RUN/config.json")
        if what != "capacity 1e9":  # a bundle may have fewer positions than its model
            yield Row(f"manifest: {what}", bundle, _edited(changes, "model", "manifest_sha256"), "BUNDLE/manifest.json")
    for what, changes in _CARDS.items():
        yield Row(f"configuration: {what}", run, _edited(changes), "RUN/config.json")
        damage = _edited(changes, own="manifest_sha256")
        yield Row(f"manifest: {what}", ("verify", "BUNDLE"), damage, "BUNDLE/manifest.json")
    for what, changes in _MANIFESTS.items():
        damage = _edited(changes, own="manifest_sha256")
        yield Row(f"manifest: {what}", ("inspect", "BUNDLE"), damage, "BUNDLE/manifest.json")
    damage = _edited({"target": "abacus"}, own="manifest_sha256")  # another package may have added it
    yield Row("manifest: an unknown target", bundle, damage, "BUNDLE/manifest.json")


# --- arrays, tensors, and what a header may ask for -----------------------------------------------------------------


def npy(shape: tuple[int, ...], dtype: str = "<i8") -> bytes:
    """A .npy file whose header speaks of an array, and nothing behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _saved(array: Any) -> Damage:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return _content(file.getvalue())


def _header(header: Mapping[str, Any], behind: int = 0) -> Damage:
    """A safetensors file of this header and so many zeros."""
    text = json.dumps(header).encode()
    return _content(len(text).to_bytes(8, "little") + text + bytes(behind))


def _npz(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Damage:
    def damage(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in entries.items():
                archive.writestr(f"{name}.npy", content)

    return damage


def _npz_of(**arrays: Any) -> Damage:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return _content(file.getvalue())


_IDS: Mapping[str, tuple[Damage, str]] = {
    "a header of 1e12 numbers": (_content(npy((10**6, 10**6))), "more than there is"),
    "a header of 1e30 numbers": (_content(npy((10**15, 10**15))), "more than there is"),
    "a header of -1 numbers": (_content(npy((-1, 4)) + bytes(64)), ""),
    "objects": (_saved(np.array([[None]])), "Python objects"),
    "letters": (_saved([["a"]]), "not numbers"),
    "dates": (_saved(np.array([["2020-01-01"]], "M8[D]")), "not numbers"),
    "floats": (_saved([[1.5]]), "expected integers [B, T]"),
    "one row": (_saved([1, 2]), "expected integers [B, T]"),
    "no token": (_saved(np.zeros((2, 0), np.int64)), "at least one token"),
    "a token of -1": (_saved([[-1, 2]]), ""),
    "a token of 29": (_saved([[29, 2]]), ""),
    "a token of 2^63": (_saved(np.array([[2**63, 2]], np.uint64)), ""),
    "more tokens than positions": (_saved(np.zeros((1, 41), np.int64)), ""),
    "an archive": (_npz_of(ids=np.zeros((1, 3), np.int64)), "holds an archive"),
}
_FEW = np.zeros((1, 3), np.int64)
_LOGITS: Mapping[str, tuple[Damage, str]] = {
    "a header of 1e12 numbers": (_npz({"tokens": npy((10**6, 10**6)), "logits": npy((1, 1))}), "r: tokens"),
    "a bomb": (_npz({"tokens": npy((1, 1 << 27)) + bytes(1 << 27)}, zipfile.ZIP_DEFLATED), "unpacked"),
    "objects": (_npz_of(tokens=np.array([[None]]), logits=np.ones((1, 1, 29))), "tokens: holds Python objects"),
    "no logits": (_npz_of(tokens=_FEW), "no entry logits"),
    "no entries": (_npz({}), "no entry tokens"),
    "NaN": (_npz_of(tokens=_FEW, logits=np.full((1, 3, 29), np.nan)), "NaN"),
    "another vocabulary": (_npz_of(tokens=_FEW, logits=np.ones((1, 3, 30))), "[1, 3, 29]"),
    "numbers of 128 bits": (_npz_of(tokens=_FEW, logits=np.ones((1, 3, 29), np.longdouble)), "logits"),
    "bytes in an archive": (_npz({"tokens": b"abc", "logits": b""}), "tokens"),
}
_F32 = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
_METADATA = {"format": "causalrn-state", "version": "1", "owner": "x", "position": "1", "batch": "1"}
_TENSORS: Mapping[str, Damage] = {
    "a header of 1e12 bytes": _content((10**12).to_bytes(8, "little") + b"{}"),
    "a tensor of 1e12 numbers": _header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, 8),
    "a shape that does not fit": _header({"a": {**_F32, "shape": [10**6, 10**6]}}, 8),
    "negative offsets": _header({"a": {**_F32, "data_offsets": [-8, 8]}}, 8),
    "an unknown type": _header({"a": {**_F32, "dtype": "F3"}}, 8),
    "entries of numbers": _header({"a": 5}, 8),
    "no offsets": _header({"a": {"dtype": "F32", "shape": [2]}}, 8),
    "more behind it": _header({"a": _F32}, 80),
    "many values": _content((7 << 20).to_bytes(8, "little") + b'"a":[],' * (1 << 20) + bytes(8)),
}
_STATES: Mapping[str, dict[str, str]] = {
    "no position": {"position": ""},
    "position -1": {"position": "-1"},
    "position 1e30": {"position": "1" + "0" * 30},
    "a position of 5,000 digits": {"position": "9" * 5000},
    "batch 0": {"batch": "0"},
    "batch 1e9": {"batch": "1000000000"},
    "version 2": {"version": "2"},
    "another owner": {"owner": "somebody"},
    "another format": {"format": "pt"},
}


def rows_of_arrays() -> Iterator[Row]:
    """Headers that ask for too much, and numbers of the wrong kind."""
    for what, (damage, words) in _IDS.items():
        run = ("run", "BUNDLE", "--input-ids", "FILE", "--logits", "OUT")
        yield Row(f"token ids: {what}", run, damage, words=(words,))
        verify = ("verify", "BUNDLE", "--checkpoint", "RUN", "--load-inputs", "FILE")
        yield Row(f"tokens to verify on: {what}", verify, damage, words=(words,))
    for what, (damage, words) in _LOGITS.items():
        yield Row(
            f"recorded logits: {what}",
            ("convert", "PTH", "-o", "OUT", "--reference", "FILE"),
            damage,
            words=(words.replace("r:", "file:"),),
        )
    for what, damage in _TENSORS.items():
        yield Row(f"state file: {what}", ("run", "BUNDLE", "--state-in", "FILE"), damage)
        yield Row(f"weights: {what}", ("convert", "FILE", "-o", "OUT", "--readout", "exact"), damage)
        yield Row(f"recorded logits: {what}", ("convert", "PTH", "-o", "OUT", "--reference", "FILE"), damage)
        yield Row(f"weights of a RUN: {what}", ("export", "RUN", "-o", "OUT"), damage, "RUN/model.safetensors")
    for what, changes in _STATES.items():
        damage = _header({"__metadata__": {**_METADATA, **changes}, "logits": _F32}, 8)
        yield Row(f"state file: {what}", ("run", "BUNDLE", "--state-in", "FILE"), damage)
    scalar = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    damage = _header({"__metadata__": _METADATA, "logits": scalar}, 4)
    yield Row("state file: logits that are one number", ("run", "BUNDLE", "--state-in", "FILE"), damage)


# --- tables and reports ---------------------------------------------------------------------------------------------


def _json(data: Mapping[str, Any], own: str | None = None) -> Damage:
    def damage(path: Path) -> None:
        whole = dict(data)
        if own is not None:
            whole[own] = own_hash(whole, own)
        path.write_text(json_text(whole))

    return damage


_RANGES = {"lowest": [0.0], "highest": [1.0]}
TABLE: dict[str, Any] = {
    "format": "causalrn-calibration",
    "version": 1,
    "checkpoint_sha256": "0" * 64,
    "source": "nobody",
    "seed": 0,
    "rollouts": [{"sequences": 1, "steps": 1, "given": 1, "sampled": [0]}],
    "activations": {"a": {"limit": 1.0, "counts": [1] * 128, "by_position": _RANGES}},
    "states": {},
}
_TABLES: Mapping[str, dict[str, Any]] = {
    "of other weights": {},
    "version 2": {"version": 2},
    "no rollouts": {"rollouts": []},
    "no activations": {"activations": {}},
    "negative counts": {"activations": {"a": {"limit": 1.0, "counts": [-1] * 128, "by_position": _RANGES}}},
    "counts of 1e30": {"activations": {"a": {"limit": 1.0, "counts": [10**30] * 128, "by_position": _RANGES}}},
    "four bins": {"activations": {"a": {"limit": 1.0, "counts": [1] * 4, "by_position": _RANGES}}},
    "a million bins": {"activations": {"a": {"limit": 1.0, "counts": [1] * 10**6, "by_position": _RANGES}}},
    "a limit of 0": {"activations": {"a": {"limit": 0.0, "counts": [1] * 128, "by_position": _RANGES}}},
    "ranges upside down": {"states": {"a": {"lowest": [1.0], "highest": [0.0]}}},
    "ranges of text": {"states": {"a": {"lowest": ["x"], "highest": [0.0]}}},
    "a seed of text": {"seed": "x"},
}
_BENCHES: Mapping[str, dict[str, Any]] = {
    "rows of numbers": {"report": "causalrn-bench", "version": 1, "rows": [5], "environment": {}},
    "rows without entries": {"report": "causalrn-bench", "version": 1, "rows": [{}], "environment": {}},
    "version 0": {"report": "causalrn-bench", "version": 0, "rows": [], "environment": {}},
    "no rows": {"report": "causalrn-bench", "version": 1},
}
_MACHINES: Mapping[str, dict[str, Any]] = {
    "no entries": {"report": "causalrn-machine", "version": 1},
    "a machine in a list": {"machine": []},
    "of version 99": {"report": "causalrn-machine", "version": 99},
}
_CERTIFICATES: Mapping[str, dict[str, Any]] = {
    "no entries": {"certificate": "causalrn-certificate", "version": 1},
    "version 9": {"certificate": "causalrn-certificate", "version": 9},
    "version true": {"certificate": "causalrn-certificate", "version": True},
    "a report of numbers": {"certificate": "causalrn-certificate", "version": 1, "report": 5, "files": {}},
}


def rows_of_reports() -> Iterator[Row]:
    """Tables, reports and certificates that are whole, and say what cannot be."""
    quantize = ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8a8", "--calibration", "FILE")
    for what, changes in _TABLES.items():
        damage = _json({**TABLE, **changes}, "calibration_sha256")
        yield Row(f"calibration table: {what}", quantize, damage)
        if what != "of other weights":
            yield Row(f"table to inspect: {what}", ("inspect", "FILE"), damage)
    for what, data in _BENCHES.items():
        yield Row(f"earlier report: {what}", ("bench", "BUNDLE", "--against", "FILE"), _json(data))
    for what, data in _MACHINES.items():
        yield Row(f"machine: {what}", ("bench", "BUNDLE", "--predict", "--device", "FILE"), _json(data))
    for what, data in _CERTIFICATES.items():
        damage = _json(data, "certificate_sha256")
        yield Row(f"certificate: {what}", ("inspect", "BUNDLE", "--certificate", "FILE"), damage)
        yield Row(f"certificate in a bundle: {what}", ("inspect", "BUNDLE"), damage, "BUNDLE/certificate.json")


# --- options and places ---------------------------------------------------------------------------------------------

_OPTIONS: tuple[tuple[str, ...], ...] = (
    ("run", "BUNDLE", "--prompt", "a", "--temperature", "nan"),
    ("run", "BUNDLE", "--prompt", "a", "--temperature", "-1"),
    ("run", "BUNDLE", "--prompt", "a", "--top-p", "inf"),
    ("run", "BUNDLE", "--prompt", "a", "--top-k", "-1"),
    ("run", "BUNDLE", "--prompt", "a", "--max-new-tokens", "1e9"),
    ("run", "BUNDLE", "--prompt", "a", "--threads", "1000000000"),
    ("run", "BUNDLE", "--prompt", "a", "--seed", "-1"),
    ("run", "BUNDLE", "--prompt", "a" * 100_000),
    ("run", "BUNDLE", "--prompt", "é"),
    ("verify", "BUNDLE", "--samples", "-1"),
    ("verify", "BUNDLE", "--checkpoint", "BUNDLE"),
    ("verify", "BUNDLE", "--checkpoint", "RUN", "--steps", "1000000000"),
    ("verify", "BUNDLE", "--time-budget", "nan"),
    ("verify", "BUNDLE", "--level", "none"),
    ("verify", "RUN"),
    ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w2"),
    ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8", "--max-kl", "inf"),
    ("quantize", "BUNDLE", "-o", "OUT", "--scheme", "w8a8", "--sequences", "0"),
    ("quantize", "BUNDLE", "-o", "BUNDLE", "--scheme", "w8"),
    ("export", "RUN", "-o", "OUT", "--capacity", "1000000000"),
    ("export", "RUN", "-o", "OUT", "--capacity", "-5"),
    ("export", "RUN", "-o", "OUT", "--opset", "99"),
    ("export", "RUN", "-o", "OUT", "--target", "abacus"),
    ("export", "RUN", "-o", "OUT", "--present"),
    ("export", "RUN", "-o", "OUT", "--index-type", "int8"),
    ("export", "RUN", "-o", "OUT", "--profile", "portable", "--opset", "23"),
    ("export", "RUN", "-o", "OUT", "--profile", "cortex-m"),
    ("export", "RUN", "-o", "OUT", "--target", "c", "--package", "abacus"),
    ("export", "RUN", "-o", "OUT", "--package", "arduino"),
    ("export", "RUN", "-o", "OUT", "--target", "c", "--package", "zephyr", "--weights", "file"),
    ("export", "RUN", "-o", "OUT", "--target", "c", "--profile", "cortex-m", "--bindings", "go"),
    ("reseal", "BUNDLE", "--checkpoint", "RUN"),
    ("reseal", "BUNDLE", "--checkpoint", "BUNDLE"),
    ("reseal", "BUNDLE", "--checkpoint", "RUN", "--samples", "0"),
    ("reseal", "RUN", "--checkpoint", "RUN"),
    ("reseal", "OUT", "--checkpoint", "RUN"),
    ("reseal", "C", "--checkpoint", "RUN"),
    ("export", "BUNDLE", "-o", "OUT"),
    ("export", "RUN", "-o", "OUT", "--beside", "RUN"),
    ("convert", "PTH", "-o", "OUT", "--heads", "1000000000"),
    ("convert", "PTH", "-o", "OUT", "--length", "1000000000"),
    ("convert", "PTH", "-o", "OUT", "--eps", "nan"),
    ("convert", "BUNDLE", "-o", "OUT"),
    ("convert", "PTH", "-o", "RUN", "--readout", "exact"),
    ("train", "-o", "OUT", "--length", "1000000000"),
    ("train", "-o", "OUT", "--batch", "1000000000", "--steps", "1"),
    ("train", "-o", "OUT", "--blocks", "1000000000"),
    ("train", "-o", "OUT", "--learning-rate", "nan"),
    ("train", "-o", "OUT", "--steps", "-1"),
    ("train", "-o", "RUN", "--resume"),
    ("bench", "BUNDLE", "-d", "1000000000"),
    ("bench", "BUNDLE", "-b", "x"),
    ("bench", "BUNDLE", "--device", "abacus", "--predict"),
    ("bench", "BUNDLE", "--runtime", "abacus"),
    ("compile", "RUN", "-o", "OUT"),
    ("compile", "BUNDLE", "-o", "OUT", "--profile", "9/5/1"),
    ("serve", "BUNDLE"),
    ("serve", "RUN"),
    ("inspect", "OUT"),
    ("inspect", "BUNDLE", "--json", "BUNDLE/x.json"),
    ("inspect", "BUNDLE", "--json", "OUT/x.json"),
    ("run", "BUNDLE", "--prompt", "a", "--state-out", "BUNDLE/state"),
    ("run", "BUNDLE", "--no-such-option"),
    ("abacus",),
)


def rows_of_options() -> Iterator[Row]:
    """Numbers and words that no option takes, and places that nothing may be written to."""
    for arguments in _OPTIONS:
        yield Row(" ".join(word[:30] for word in arguments), arguments)


ROWS: tuple[Row, ...] = (
    *rows_of_anything(),
    *rows_of_json(),
    *rows_of_arrays(),
    *rows_of_reports(),
    *rows_of_options(),
)
