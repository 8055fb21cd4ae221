"""The checkpoint folder: what training and conversion write. Needs no torch; checkpoint.py adds the weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.files import sha256_file
from causalrn.bundle.disk.folders import recover_to_read
from causalrn.bundle.disk.ownership import Marker
from causalrn.bundle.disk.reading import check_input, read_json_object
from causalrn.bundle.disk.wrong_folder import RUN, describe_wrong
from causalrn.bundle.json_values import json_text, own_hash
from causalrn.bundle.known_by import TRAINED_HERE
from causalrn.errors import CausalRNError, CheckpointError
from causalrn.training.card import ModelCard

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
LOG_NAME = "log.jsonl"
STATE_NAME = "training.safetensors"
"""Weights, optimizer state and plan of a training, for resuming it."""

CHECKPOINT_VERSION = 1
_COPY = "copy the RUN again"
_FORMAT = "causalrn-run"
_OWN_HASH = "config_sha256"
CHECKPOINT_MARKER = Marker(CONFIG_NAME, _FORMAT, _OWN_HASH)


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint folder: `config.json` (card and origin), `model.safetensors`, and `log.jsonl` if trained here.

    Attributes:
        origin: training settings, or the file that was converted.
        recorded_sha256: the weights' hash when `config.json` was written.
        recorded_bytes: their size; None where an earlier version wrote it.
    """

    path: Path
    card: ModelCard
    origin: dict[str, Any] = field(default_factory=dict)
    recorded_sha256: str = ""
    recorded_bytes: int | None = None

    def __fspath__(self) -> str:
        """Its path: the object can be given wherever a path can."""
        return os.fspath(self.path)

    @property
    def weights(self) -> Path:
        """Path of the weights file."""
        return self.path / WEIGHTS_NAME

    @property
    def sha256(self) -> str:
        """Hash of the weights file, to which bundles and state files are bound.

        Raises:
            CheckpointError: the weights are not those that `config.json` was written for.
        """
        has_size = self.recorded_bytes in (None, self.weights.stat().st_size)
        if not has_size or sha256_file(self.weights) != self.recorded_sha256:
            raise CheckpointError(
                f"{self.weights}: content differs from the SHA-256 in {CONFIG_NAME}: "
                "copy the RUN again, or resume its training"
            )
        return self.recorded_sha256

    @classmethod
    def open(cls, path: Path) -> CheckpointFolder:
        """Read `config.json`.

        Raises:
            CheckpointError: the folder or one of its files is missing or malformed.
        """
        recover_to_read(path)
        if not (path / CONFIG_NAME).exists():
            raise CheckpointError(describe_wrong(path, RUN))
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (path / name).exists():
                raise CheckpointError(f"{path}: no {name} in it: {_COPY}")
            check_input(path / name, _COPY, CheckpointError)
        source = path / CONFIG_NAME
        try:
            data = read_json_object(source, _COPY, CheckpointError)
            version = data.get("version")
            if data.get("format") != _FORMAT or version is True or version != CHECKPOINT_VERSION:
                raise CheckpointError(f"{source}: not a {_FORMAT} configuration of version {CHECKPOINT_VERSION}")
            card = ModelCard.from_entries(data, str(source))
            origin = data.get("origin")
            origin = origin if isinstance(origin, dict) else {}
            if card.known_by is None and "trained" in origin:  # written before cards said it
                card = dataclasses.replace(card, known_by=TRAINED_HERE)
            return cls(path, card, origin, *_recorded(data))
        except CheckpointError:
            raise
        except CausalRNError as error:
            raise CheckpointError(str(error)) from None

    def write_config(self) -> None:
        """Write `config.json` into a new folder, beside all the files that it will have."""
        files = {
            path.name: {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
            for path in sorted(self.path.iterdir())
        }
        data = {"format": _FORMAT, "version": CHECKPOINT_VERSION, **self.card.entries(), "origin": self.origin}
        data |= {"files": files}
        text = json_text(data | {_OWN_HASH: own_hash(data, _OWN_HASH)})
        (self.path / CONFIG_NAME).write_text(text, encoding="utf-8")


def _recorded(data: Mapping[str, Any]) -> tuple[str, int | None]:
    """Hash and size of the weights, as `config.json` says them; before it named all files it said the hash alone."""
    files = data.get("files")
    entry = files.get(WEIGHTS_NAME) if isinstance(files, dict) else None
    if not isinstance(entry, dict):
        return str(data.get("weights_sha256", "")), None
    size = entry.get("size_bytes")
    return str(entry.get("sha256", "")), size if isinstance(size, int) else None


def is_checkpoint(path: Path) -> bool:
    """Whether the folder claims to be a checkpoint folder; what a killed process left of one is mended first."""
    recover_to_read(path)
    return os.path.lexists(path / CONFIG_NAME)
