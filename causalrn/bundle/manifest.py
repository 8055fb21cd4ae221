"""The bundle's manifest: the only source of names, state shapes and hashes for every runtime. Needs no torch.

What it says of the model (configuration, alphabet, task) are JSON values here, which
:func:`causalrn.training.card.card_of` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from causalrn.bundle.converted_spec import ConvertedSpec
from causalrn.bundle.disk.files import CERTIFICATE_HASH, CERTIFICATE_NAME
from causalrn.bundle.disk.folders import recover_to_read
from causalrn.bundle.disk.leftovers import is_inner_name
from causalrn.bundle.disk.ownership import FOLDERS, Marker
from causalrn.bundle.disk.reading import read_json_text
from causalrn.bundle.disk.wrong_folder import BUNDLE, describe_wrong
from causalrn.bundle.engine_spec import EngineSpec
from causalrn.bundle.json_values import from_json, own_hash, parse_json_object, to_json
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.native_spec import WEB_PROFILE, NativeSpec
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.resealing import Resealing
from causalrn.bundle.state_spec import StateSpec
from causalrn.bundle.targets import CHECKPOINT, ENTRIES, Target, all_targets
from causalrn.bundle.web_spec import BESIDE, C_ENGINE, WebSpec
from causalrn.errors import BundleError, ConfigError

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
_FORMAT = "causalrn-bundle"
_OWN_HASH = "manifest_sha256"
_OPTIONAL = ("known_by", *ENTRIES, "resealed", FOLDERS)
"""Entries that are left out where they are empty."""
ORT_SUFFIX = ".ort"
"""Of graphs in onnxruntime's own format, with their weights inside."""
INDEX_TYPES = ("int64", "int32")
"""Element types of tokens and positions in graphs, the usual one first."""
_LARGEST_CHUNK = 1 << 20
BUNDLE_MARKER = Marker(MANIFEST_NAME, _FORMAT, _OWN_HASH, {CERTIFICATE_NAME: CERTIFICATE_HASH})


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
class FileEntry:
    """What the manifest says of a file: hexadecimal SHA-256 of its content, and its size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself; the fields are the entries of manifest.json.

    Attributes:
        target: what kind of bundle, a name in the table of targets, :mod:`causalrn.bundle.targets`: "onnx", ...
        model: the configuration: "architecture", sizes and options; see :mod:`causalrn.model.config`.
        alphabet, task: name of the token alphabet, "letters" or "bytes"; None for token ids alone. What the model was
            trained on: "name" and settings; None where unknown.
        known_by: how it is known that `model` is what was trained; None where an earlier version wrote the bundle.
        graphs: "step" (T = 1), "prefill" (any T), and in ONNX, where it pays, "step_single" (T = B = 1); none in C.
            Models that users bring may have no prefill: then chunks have one token.
        opset: ONNX opset of the graphs, or of those that engines were compiled from; None in C.
        index_type: of the graphs' inputs `tokens` and `position`: "int64" or "int32".
        prefill_chunk: most tokens that a runtime should give the prefill graph at once.
        state: the state contract.
        checkpoint_sha256, created_with: hash of the weights file that it was exported from; versions of what wrote it.
        streams: names of the graphs' values that blocks and, last, the head read of the residual stream, [T * B, E].
        quantization: how it was quantized; None in float32.
        files: per file of the bundle its SHA-256 and size; those of a folder that is no bundle are "FOLDER/NAME".
        engine, native, web, converted: how its engines were compiled, its C source is built, what computes it in a
            browser, how its graphs were converted for phones and boards; each None for other targets.
        resealed: each time that other tools had changed its graphs, and it passed as a whole.
        folders: per bundle that lies in this one, a folder's name and the SHA-256 of its manifest; filled in likewise.
        manifest_sha256: of the manifest's own JSON text without this entry; filled in when it is written.

    Raises:
        ValueError: a file outside the bundle, a graph that is missing or not listed, an impossible number.
    """

    format: Literal["causalrn-bundle"] = "causalrn-bundle"
    version: Literal[1] = 1
    target: str
    model: Mapping[str, Any]
    alphabet: str | None = None
    task: Mapping[str, Any] | None = None
    known_by: KnownBy | None = None
    graphs: Mapping[str, Graph]
    opset: int | None
    index_type: Literal["int64", "int32"] = "int64"
    prefill_chunk: int
    state: StateSpec
    checkpoint_sha256: str
    created_with: Mapping[str, str]
    streams: tuple[str, ...]
    quantization: Quantization | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    engine: EngineSpec | None = None
    native: NativeSpec | None = None
    web: WebSpec | None = None
    converted: ConvertedSpec | None = None
    resealed: tuple[Resealing, ...] = ()
    folders: Mapping[str, str] = field(default_factory=dict)
    manifest_sha256: str = field(default="", compare=False)

    def check(self) -> None:
        """Check what names and numbers mean, whoever wrote them.

        Raises:
            ValueError: a file outside the bundle, a graph that is missing or not listed, an impossible number.
        """
        for name in (*self.files, *self.folders):
            if not is_inner_name(name) or ("/" in name and name.partition("/")[0] in self.folders):
                raise ValueError(f"{name!r} is no plain file name")
        self._check_entries()
        self._check_source()
        if self._has_graphs:
            self._check_graphs()
        if self.web is not None:
            self._check_web(self.web)
        dtype = self.state.pool_dtype
        if not (dtype == "float32" if self.quantization is None else self.quantization.fits_pools(dtype)):
            raise ValueError(f"quantization contradicts pools of {dtype}")
        if self.folders and self.web is None:
            raise ValueError(f"folders in a bundle for {self.target!r}")
        chunkless = self._has_graphs and "prefill" not in self.graphs and self.prefill_chunk > 1
        if chunkless or not 1 <= self.prefill_chunk <= _LARGEST_CHUNK:
            raise ValueError(f"prefill_chunk is {self.prefill_chunk!r}")

    @property
    def _row(self) -> Target | None:
        """The row of the table of targets; None for a target that this process does not know."""
        return next((row for row in all_targets() if row.name == self.target != CHECKPOINT), None)

    @property
    def _has_graphs(self) -> bool:
        """Whether there are graphs, or have to be."""
        by_target = self._row is not None and self._row.has_graphs
        return by_target or bool(self.graphs) or (self.web is not None and self.web.engine != C_ENGINE)

    @property
    def _source_target(self) -> str:
        """The target whose bundles hold C source as this one does."""
        return self.target if self.web is not None and self.web.engine == C_ENGINE else "c"

    def _check_entries(self) -> None:
        """Each kind of bundle has its own entry, and no other's."""
        for entry in ENTRIES:
            owners = [row.name for row in all_targets() if row.entry == entry]
            if entry == "native":
                owners = [self._source_target]
            has_entry = getattr(self, entry) is not None
            if (self.target in owners) != has_entry:
                kind = "" if has_entry else "out"
                raise ValueError(f"a bundle for {self.target!r} with{kind} entry for {' or '.join(owners) or entry}")

    def _check_source(self) -> None:
        if (self.native is not None and self.native.profile == WEB_PROFILE) != (self._source_target == "web"):
            raise ValueError("source for the web in another bundle, or none in one for the web")
        if self.native is not None:
            missing = [name for name in self.native.files if name not in self.files]
            if missing or self.graphs or self.opset is not None:
                raise ValueError(f"C source {'without ' + missing[0] if missing else 'with graphs'}")

    def _check_graphs(self) -> None:
        if (self.opset is not None) != (self._row is None or self._row.has_opset):
            raise ValueError(f"opset is {self.opset!r}")
        for name in ("step",) if self.state.is_own else ("step", "prefill"):
            if name not in self.graphs:
                raise ValueError(f"no graph {name}")
        for name, graph in self.graphs.items():
            if graph.file not in self.files:
                raise ValueError(f"graph file {graph.file!r} is not listed")
            if graph.pad_rows != (0 if name == "prefill" else self.state.step_pad_rows):
                raise ValueError(f"graph {name} has pad_rows {graph.pad_rows!r}")
        if self.engine is not None:
            self.engine.check_fits(self.state, self.graphs)

    def _check_web(self, web: WebSpec) -> None:
        if any(name not in self.files for name in web.files):
            raise ValueError("files of the web target are missing")
        if (web.limits is None) != (self.quantization is None):
            raise ValueError("limits contradict quantization")
        if self.state.has_pool and self.state.pool != "growing":
            raise ValueError(f"a {self.state.pool} pool in a browser")
        if set(self.folders) - {BESIDE}:
            raise ValueError("folders that cannot be")

    @property
    def shows_streams(self) -> bool:
        """Whether its runtime can show what happens between blocks: onnxruntime-web and other targets' rows say no."""
        by_target = self._row is None or self._row.shows_streams
        return by_target and bool(self.streams) and (self.web is None or self.web.engine == C_ENGINE)

    @property
    def is_ort_format(self) -> bool:
        """Whether its graphs are in onnxruntime's own format, which nothing else reads."""
        return any(graph.file.endswith(ORT_SUFFIX) for graph in self.graphs.values())

    def graph_for(self, batch: int, time: int) -> str:
        """Name of the graph that takes T tokens of B sequences."""
        if time > 1:
            return "prefill"
        return "step_single" if batch == 1 and "step_single" in self.graphs else "step"

    def entries(self) -> dict[str, Any]:
        """The content of manifest.json as JSON values, its own SHA-256 among them."""
        data = to_json(self)
        data = {name: value for name, value in data.items() if value or name not in _OPTIONAL}
        if self.index_type == INDEX_TYPES[0]:  # as bundles of earlier versions have it
            data.pop("index_type", None)  # msgspec leaves out what was not read
        return data | {_OWN_HASH: own_hash(data, _OWN_HASH)}

    @classmethod
    def from_entries(cls, data: Mapping[str, Any], source: str) -> Manifest:
        """Read :meth:`entries` back; `source` is named in errors.

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
        manifest = from_json(data, cls, f"{source}: malformed manifest", BundleError)
        try:
            manifest.check()
        except ValueError as error:
            verb = writing_verb(manifest.target)
            raise BundleError(f"{source}: malformed manifest ({error}): {verb} it again") from None
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """What a bundle says of itself, its files unseen: for questions that come before it is opened.

        Raises:
            BundleError: no folder, no manifest in it, or none that is whole.
        """
        return cls.parse(read_manifest_text(path), path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Manifest:
        """The manifest of the folder `path`, from its file's text.

        Raises:
            BundleError: as :meth:`from_entries`, or the text is no JSON.
        """
        source = str(path / MANIFEST_NAME)
        try:
            return cls.from_entries(parse_json_object(text, source), source)
        except ConfigError as error:
            raise BundleError(f"{error}: export the bundle again") from None


def stream_names(blocks: int) -> tuple[str, ...]:
    """Names of the residual stream's values: stream.00 is what block 0 reads, and so on; the last is the head's."""
    digits = max(2, len(str(blocks)))
    return tuple(f"stream.{block:0{digits}d}" for block in range(blocks + 1))


def read_manifest_text(path: Path) -> str:
    """Text of manifest.json in the folder `path`.

    Raises:
        BundleError: no folder, or no manifest in it that can be read.
    """
    recover_to_read(path)
    manifest = path / MANIFEST_NAME
    if not manifest.exists() and not manifest.is_symlink():
        raise BundleError(describe_wrong(path, BUNDLE))
    return read_json_text(manifest, "export the bundle again", BundleError)


def writing_verb(target: str) -> str:
    """The command that writes a bundle."""
    return next((row.written_by for row in all_targets() if row.name == target), "export")
