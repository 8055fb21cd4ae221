"""State files: a snapshot as safetensors, bound to its weights. Their format: docs/state-files.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from causalrn.bundle.disk.files import written_file
from causalrn.bundle.disk.tensor_files import check_tensor_file
from causalrn.errors import StateError
from causalrn.runtimes.snapshot import Snapshot

_FORMAT = "causalrn-state"
_VERSION = "1"
_KINDS = ("checkpoint", "arithmetic", "model")
"""Left out where they are not known: the state goes on where it was taken, and nowhere else."""
_LOGITS = "logits"
_TAILS = "text_tails"
"""Begun characters, per row in hexadecimal or "-"; left out where there is none."""
_MOST = 1 << 53
_REMEDY = "name a state file that a session saved"


def save_state(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all."""
    with written_file(path) as partial:
        partial.write_bytes(state_content(snapshot))  # not save_file: a full disk has to be an OSError


def state_content(snapshot: Snapshot) -> bytes:
    """What a snapshot's file holds."""
    # np.ascontiguousarray would give a counter without axes one
    tensors = {f"state.{name}": np.asarray(tensor, order="C") for name, tensor in snapshot.tensors.items()}
    if snapshot.logits is not None:
        tensors[_LOGITS] = np.ascontiguousarray(snapshot.logits)
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "owner": snapshot.owner,
        "position": str(snapshot.position),
        "batch": str(snapshot.batch),
    }
    metadata |= {name: value for name, value in zip(_KINDS, snapshot.origin.kinds, strict=True) if value}
    if snapshot.text_tails:
        metadata[_TAILS] = " ".join(tail.hex() or "-" for tail in snapshot.text_tails)
    content: bytes = save(tensors, metadata=metadata)
    return content


def load_state(path: Path) -> Snapshot:
    """Read a snapshot back; :meth:`Session.restore` checks that it belongs to the session.

    Raises:
        StateError: the file is missing, corrupt, or no state file of this version.
    """
    check_tensor_file(path, "state file", _REMEDY, StateError)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
                raise StateError(f"{path}: not a state file of this version: {_REMEDY}")
            position, batch = int(metadata["position"]), int(metadata["batch"])
            owner = metadata["owner"]
            kinds = [metadata.get(name, "") for name in _KINDS]
            tails = tuple(b"" if row == "-" else bytes.fromhex(row) for row in metadata.get(_TAILS, "").split())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path}: corrupt state file ({error}): {_REMEDY}") from None
    logits = tensors.pop(_LOGITS, None)
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
    if not 0 <= position <= _MOST or not 1 <= batch <= _MOST or (logits is not None and logits.shape[:1] != (batch,)):
        raise StateError(f"{path}: corrupt state file (position {position}, batch {batch})")
    return Snapshot(position, batch, state, logits, owner, tails, *kinds)
