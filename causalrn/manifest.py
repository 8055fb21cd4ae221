"""The bundle's manifest: the only source of names, state shapes and hashes for every runtime. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.card import ModelCard
from causalrn.engine_spec import EngineSpec
from causalrn.errors import BundleError, ConfigError, InputError
from causalrn.files import CERTIFICATE_NAME, FOLDERS, Marker, json_text, own_hash, parse_json_object, sha256_file
from causalrn.manifest_checks import check_manifest
from causalrn.native_spec import NativeSpec
from causalrn.quantization import Quantization
from causalrn.state_spec import StateSpec
from causalrn.web_spec import C_ENGINE, WebSpec

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
_FORMAT = "causalrn-bundle"
_OWN_HASH = "manifest_sha256"
BUNDLE_MARKER = Marker(MANIFEST_NAME, _FORMAT, names=(CERTIFICATE_NAME,))


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle.

    Attributes:
        file: its name inside the bundle.
        pad_rows: rows of zeros that it expects behind a growing pool, for the new rows.
    """

    file: str
    pad_rows: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        card: the model.
        state: the state contract.
        target: what kind of bundle: "onnx", "tensorrt" for engines, "c" for C source, or "web" for browsers.
        graphs: "step" (T = 1), "prefill" (any T), and in ONNX, where it pays, "step_single" (T = B = 1); none in C.
        opset: ONNX opset of the graphs, or of those that engines were compiled from; None in C.
        prefill_chunk: most tokens that a runtime should give the prefill graph at once.
        checkpoint_sha256: hash of the weights file that it was exported from.
        created_with: versions of what wrote it.
        streams: names of the graphs' values that the blocks and, last, the head read from the residual stream, [T * B,
            E] each; none in bundles of early versions.
        quantization: how it was quantized; None in float32.
        engine: how its engines were compiled; None for other targets.
        native: how its C source is built; None where there is none.
        web: what computes it in a browser; None for other targets.
        files: per file of the bundle its SHA-256 and size; filled in when the bundle is sealed.
        folders: per bundle that lies in this one, a folder's name and the SHA-256 of its manifest; filled in likewise.
    """

    card: ModelCard
    state: StateSpec
    target: str
    graphs: Mapping[str, Graph]
    opset: int | None
    prefill_chunk: int
    checkpoint_sha256: str
    created_with: Mapping[str, str]
    streams: tuple[str, ...] = ()
    quantization: Quantization | None = None
    engine: EngineSpec | None = None
    native: NativeSpec | None = None
    web: WebSpec | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, its own SHA-256 among them."""
        data = {
            "format": _FORMAT,
            "version": MANIFEST_VERSION,
            "target": self.target,
            **self.card.to_json(),
            "graphs": {name: {"file": g.file, "pad_rows": g.pad_rows} for name, g in self.graphs.items()},
            "opset": self.opset,
            "prefill_chunk": self.prefill_chunk,
            "state": self.state.to_json(),
            "checkpoint_sha256": self.checkpoint_sha256,
            "created_with": dict(self.created_with),
            "streams": list(self.streams),
            "quantization": None if self.quantization is None else self.quantization.to_json(),
            "files": {name: dict(entry) for name, entry in self.files.items()},
        }
        if self.engine is not None:
            data["engine"] = self.engine.to_json()
        if self.native is not None:
            data["native"] = self.native.to_json()
        if self.web is not None:
            data["web"] = self.web.to_json()
        if self.folders:
            data[FOLDERS] = dict(self.folders)
        return data | {_OWN_HASH: own_hash(data, _OWN_HASH)}

    @property
    def shows_streams(self) -> bool:
        """Whether its runtime can show what happens between blocks: engines and onnxruntime-web cannot."""
        return self.engine is None and (self.web is None or self.web.engine == C_ENGINE)

    def graph_for(self, batch: int, time: int) -> str:
        """Name of the graph that takes T tokens of B sequences."""
        if time > 1:
            return "prefill"
        return "step_single" if batch == 1 and "step_single" in self.graphs else "step"

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> Manifest:
        """Read :meth:`to_json`'s form back; `source` is named in errors.

        Raises:
            BundleError: not a manifest, or one of another version.
        """
        if data.get("format") != _FORMAT:
            raise BundleError(f"{source}: not a causalrn bundle's manifest")
        if data.get("version") != MANIFEST_VERSION:
            raise BundleError(
                f"{source}: manifest version {data.get('version')!r}, this toolkit reads {MANIFEST_VERSION}: "
                "export again with this version, or install the one that wrote it"
            )
        if data.get(_OWN_HASH) != own_hash(data, _OWN_HASH):
            raise BundleError(f"{source}: content differs from its own SHA-256: copy it again, or export again")
        try:
            manifest = cls(
                card=ModelCard.from_json(data, source),
                state=StateSpec.from_json(data["state"]),
                target=data["target"],
                graphs={name: Graph(**entry) for name, entry in data["graphs"].items()},
                opset=data["opset"],
                prefill_chunk=data["prefill_chunk"],
                checkpoint_sha256=data["checkpoint_sha256"],
                created_with=data["created_with"],
                streams=tuple(data.get("streams", ())),
                quantization=Quantization.from_json(data.get("quantization")),
                engine=EngineSpec.from_json(data.get("engine")),
                native=NativeSpec.from_json(data.get("native")),
                web=WebSpec.from_json(data.get("web")),
                files=data["files"],
                folders=data.get(FOLDERS, {}),
            )
            check_manifest(manifest)
            return manifest
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise BundleError(f"{source}: malformed manifest ({error}): {_verb(data.get('target'))} it again") from None
        except (ConfigError, InputError) as error:
            raise BundleError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """What a bundle says of itself, its files unseen: for questions that come before it is opened.

        Raises:
            BundleError: no folder, no manifest in it, or none that is whole.
        """
        return cls._parse(_read_manifest(path), path)

    @classmethod
    def _parse(cls, text: str, path: Path) -> Manifest:
        source = str(path / MANIFEST_NAME)
        try:
            return cls.from_json(parse_json_object(text, source), source)
        except ConfigError as error:
            raise BundleError(f"{error}: export the bundle again") from None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files have been checked against their hashes.

    Attributes:
        sha256: hash of the manifest, and through it of every file: what state files are bound to.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest and check every file's size and hash.

        Raises:
            BundleError: the folder, manifest or a file is missing, corrupt or changed.
        """
        text = _read_manifest(path)
        manifest = Manifest._parse(text, path)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry, _verb(manifest.target))
        for name, sha256 in manifest.folders.items():
            if cls.open(path / name).sha256 != sha256:
                raise BundleError(
                    f"{path / name}: another bundle than the manifest says: {_verb(manifest.target)} again"
                )
        return cls(path, manifest, hashlib.sha256(text.encode()).hexdigest())

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: the manifest lists no file {name}: export the bundle again")
        return self.path / name


def seal_bundle(folder: Path, manifest: Manifest) -> Bundle:
    """Hash every file in `folder` and bundle in it, write the manifest beside them, and open the result."""
    files = {
        path.name: {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST_NAME
    }
    folders = {path.name: sha256_file(path / MANIFEST_NAME) for path in sorted(folder.iterdir()) if path.is_dir()}
    sealed = dataclasses.replace(manifest, files=files, folders=folders)
    (folder / MANIFEST_NAME).write_text(json_text(sealed.to_json()), encoding="utf-8")
    return Bundle.open(folder)


def stream_names(blocks: int) -> tuple[str, ...]:
    """Names of the residual stream's values: stream.00 is what block 0 reads, and so on; the last is the head's."""
    digits = max(2, len(str(blocks)))
    return tuple(f"stream.{block:0{digits}d}" for block in range(blocks + 1))


def is_bundle(path: Path) -> bool:
    """Whether the folder claims to be a bundle."""
    return (path / MANIFEST_NAME).is_file()


def _read_manifest(path: Path) -> str:
    if not path.is_dir():
        what = "a file, not a folder" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {what}: name a bundle that `causalrn-export export` wrote")
    try:
        return (path / MANIFEST_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(f"{path}: no {MANIFEST_NAME} in it: not a bundle; `export` makes one of a RUN") from None
    except UnicodeDecodeError:
        raise BundleError(f"{path / MANIFEST_NAME}: not a text file: export the bundle again") from None


def _check_file(path: Path, entry: Mapping[str, Any], verb: str) -> None:
    remedy = f"copy it again, or {verb} again"
    if not path.is_file():
        raise BundleError(f"{path}: missing from the bundle: {remedy}")
    size = path.stat().st_size
    if size != entry.get("size_bytes"):
        raise BundleError(f"{path}: {size} bytes instead of {entry.get('size_bytes')}: {remedy}")
    if sha256_file(path) != entry.get("sha256"):
        raise BundleError(f"{path}: content differs from the manifest's SHA-256: {remedy}")


def _verb(target: Any) -> str:
    """The command that writes a bundle."""
    return "compile" if target == "tensorrt" else "export"
