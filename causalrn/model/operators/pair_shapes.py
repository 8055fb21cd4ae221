"""Whether the tensors of a sum over pairs belong together: kernels read where they are told to."""

from __future__ import annotations

from torch import Tensor


def check_pair(q: Tensor, k: Tensor) -> None:
    """Check q [B, T, G, D] against k [B, S, G, D], S >= T.

    Raises:
        ValueError: tensors that do not belong together.
    """
    fits = (
        q.ndim == k.ndim == 4 and (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:]) and k.shape[1] >= q.shape[1]
    )
    if not fits or q.dtype != k.dtype or q.device != k.device:
        shapes = " and ".join(f"{x.dtype} {list(x.shape)} on {x.device}" for x in (q, k))
        raise ValueError(f"{shapes}: expected [B, T, G, D] and [B, S, G, D] of one dtype and device, S >= T")
