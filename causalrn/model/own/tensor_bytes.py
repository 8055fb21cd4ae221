"""What a tensor holds as bytes, whatever its dtype and layout: to tell whether it is the same, never to compute."""

from __future__ import annotations

import torch
from torch import Tensor

from causalrn.errors import InputError


def tensor_bytes(tensor: Tensor) -> bytes:
    """Dtype, shape and numbers of a tensor.

    Raises:
        InputError: its numbers cannot be read, e.g. of another library's layout.
    """
    tensor = tensor.detach()
    try:
        parts = [part.cpu().resolve_conj().resolve_neg().contiguous().flatten() for part in _parts(tensor)]
        content = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        words = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, {tensor.layout}"
        raise InputError(f"the numbers of a tensor ({words}) cannot be read: make it a plain one") from error
    return f"{tensor.dtype}{list(tensor.shape)}".encode() + content


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that it consists of."""
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    return [tensor.int_repr() if tensor.is_quantized else tensor]
