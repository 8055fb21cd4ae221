"""What a sequence's state takes in memory, by the state contract."""

from __future__ import annotations

from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Snapshot

_TOKEN_BYTES = 8


def state_bytes(session: Session, tokens: int) -> int:
    """Bytes of a running sequence after so many tokens: a state of constant size is there twice, before and after."""
    if not isinstance(session, CellSession):  # the parallel form keeps tokens
        return tokens * _TOKEN_BYTES
    sizes = session.spec.size_bytes(tokens)
    return sizes if session.spec.keeps_rows else 2 * sizes


def snapshot_bytes(snapshot: Snapshot) -> int:
    """Bytes that a snapshot holds, logits included."""
    logits = 0 if snapshot.logits is None else snapshot.logits.nbytes
    return logits + sum(tensor.nbytes for tensor in snapshot.tensors.values())
