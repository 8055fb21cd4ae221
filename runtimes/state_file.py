"""State files: a snapshot as safetensors, bound to the bundle or weights that it belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from causalrn.bundle.files import written_file
from causalrn.errors import StateError
from causalrn.runtimes.snapshot import Snapshot

_FORMAT = "causalrn-state"
_VERSION = "1"
_LOGITS = "logits"
_TAILS = "text_tails"
"""Begun characters, per row in hexadecimal or "-"; left out where there is none."""


def save_state(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all."""
    tensors = {f"state.{name}": np.ascontiguousarray(tensor) for name, tensor in snapshot.tensors.items()}
    if snapshot.logits is not None:
        tensors[_LOGITS] = np.ascontiguousarray(snapshot.logits)
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "owner": snapshot.owner,
        "position": str(snapshot.position),
        "batch": str(snapshot.batch),
    }
    if snapshot.text_tails:
        metadata[_TAILS] = " ".join(tail.hex() or "-" for tail in snapshot.text_tails)
    with written_file(path) as partial:
        partial.write_bytes(save(tensors, metadata=metadata))  # not save_file: a full disk has to be an OSError


def load_state(path: Path) -> Snapshot:
    """Read a snapshot back; :meth:`Session.restore` checks that it belongs to the session.

    Raises:
        StateError: the file is missing, corrupt, or no state file of this version.
    """
    if not path.is_file():
        raise StateError(f"{path}: no such file: name a state file that a session saved")
    try:
        tensors = load_file(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
            raise StateError(f"{path}: not a state file of this version: name one that a session saved")
        position, batch = int(metadata["position"]), int(metadata["batch"])
        owner = metadata["owner"]
        tails = tuple(b"" if row == "-" else bytes.fromhex(row) for row in metadata.get(_TAILS, "").split())
    except (SafetensorError, ValueError, KeyError) as error:
        raise StateError(f"{path}: corrupt state file ({error})") from None
    logits = tensors.pop(_LOGITS, None)
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
    if position < 0 or batch < 1 or (logits is not None and len(logits) != batch):
        raise StateError(f"{path}: corrupt state file (position {position}, batch {batch})")
    return Snapshot(position, batch, state, logits, owner, tails)
