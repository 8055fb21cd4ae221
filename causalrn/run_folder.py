"""The RUN folder: what training and conversion write. This half needs no torch; checkpoint.py adds the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.card import ModelCard
from causalrn.config import parse_json_object
from causalrn.errors import CausalRNError, CheckpointError
from causalrn.files import json_text, sha256_file

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
LOG_NAME = "log.jsonl"
RUN_VERSION = 1
_FORMAT = "causalrn-run"


@dataclass(frozen=True)
class RunFolder:
    """A RUN: `config.json` (the card, and where it came from), `model.safetensors`, and `log.jsonl` if trained here."""

    path: Path
    card: ModelCard
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        """Path of the weights file."""
        return self.path / WEIGHTS_NAME

    @property
    def sha256(self) -> str:
        """Hash of the weights file: what bundles and state files are bound to."""
        return sha256_file(self.weights)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read `config.json`.

        Raises:
            CheckpointError: the folder or one of its files is missing or malformed.
        """
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such folder: name a RUN that train or convert wrote")
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (path / name).is_file():
                raise CheckpointError(f"{path}: no {name} in it: name a RUN that train or convert wrote")
        source = path / CONFIG_NAME
        try:
            data = parse_json_object(source.read_text(encoding="utf-8"), str(source))
            if data.get("format") != _FORMAT or data.get("version") != RUN_VERSION:
                raise CheckpointError(f"{source}: not a {_FORMAT} configuration of version {RUN_VERSION}")
            return cls(path, ModelCard.from_json(data, str(source)), data.get("origin", {}))
        except CheckpointError:
            raise
        except CausalRNError as error:
            raise CheckpointError(str(error)) from None
        except UnicodeDecodeError:
            raise CheckpointError(f"{source}: not a text file") from None

    def write_config(self) -> None:
        """Write `config.json` into the folder."""
        data = {"format": _FORMAT, "version": RUN_VERSION, **self.card.to_json(), "origin": self.origin}
        (self.path / CONFIG_NAME).write_text(json_text(data))


def is_run(path: Path) -> bool:
    """Whether the folder claims to be a RUN."""
    return (path / CONFIG_NAME).is_file()
