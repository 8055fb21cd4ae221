"""A cell's weights as the C kernel reads them: padded to 16 lanes, in panels, in one little-endian file.

The layout is defined by ``causalrn_use`` in kernel/weights.h and the comment on panels in kernel/matrix.h; a test
reads a packed matrix back.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from causalrn.bundle.native_spec import INTERFACE, LANES, pad_heads, padded
from causalrn.bundle.quantization import round_to_int8
from causalrn.model.config import CausalRNConfig
from causalrn.model.folding import FoldedCausalRNBlock, FoldedWeights

FloatArray = npt.NDArray[np.floating]
Array = npt.NDArray[Any]

PANEL, ALIGNMENT = 6, 64
_MAGIC, _BYTE_ORDER = b"CRNW", 0x01020304


def pack_payload(weights: FoldedWeights, capacity: int | None, scheme: str) -> bytes:
    """The arrays of a weights file, each at a multiple of 64 bytes.

    Args:
        weights: folded, float64; rounded here, once.
        capacity: learned positions to keep.
        scheme: "float32", "w8" or "w8a8-dynamic".
    """
    parts = []
    for array in _arrays(weights, capacity, scheme):
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        parts += [data, bytes(-len(data) % ALIGNMENT)]
    return b"".join(parts)


def weights_file(payload: bytes, model: int) -> bytes:
    """A weights file: 64 bytes of header, with checksums of the payload and of itself, then the payload."""
    fields = struct.pack("<IIIII", _BYTE_ORDER, INTERFACE, model, len(payload), zlib.crc32(payload))
    header = (_MAGIC + fields).ljust(ALIGNMENT - 4, b"\0")
    return header + struct.pack("<I", zlib.crc32(header)) + payload


def _arrays(weights: FoldedWeights, capacity: int | None, scheme: str) -> Iterator[Array]:
    config = weights.config
    assert isinstance(config, CausalRNConfig)
    wide = padded(config.embedding)
    yield _columns(_numpy(weights.wte), wide).astype(np.float32)
    if weights.wpe is not None:
        yield _columns(_numpy(weights.wpe)[:capacity], wide).astype(np.float32)
    for block in weights.blocks:
        assert isinstance(block, FoldedCausalRNBlock)
        pairs = ((block.w1, block.b1), (block.w2, block.b2))
        w12 = np.concatenate([pad_heads(_numpy(w).T, config.heads).T for w, _ in pairs])  # [2 HP, E]
        b12 = np.concatenate([pad_heads(_bias(b, config.hidden), config.heads) for _, b in pairs])
        yield from _matrix(_columns(w12, wide), b12, scheme)
        w3 = pad_heads(_numpy(block.w3), config.heads)  # [E, HP]
        yield from _matrix(_rows(w3, wide), _rows(_bias(block.b3, config.embedding), wide), scheme)
    outputs = padded(config.vocabulary)
    head = _columns(_rows(_numpy(weights.head), outputs), wide)
    yield from _matrix(head, _rows(_bias(weights.head_bias, config.vocabulary), outputs), scheme)


def _matrix(weight: FloatArray, bias: FloatArray, scheme: str) -> Iterator[Array]:
    """[out, in] as panels, then bias, and for int8 the scale of each output and 128 times the sum of its weights."""
    if scheme == "float32":
        yield _panels(weight.astype(np.float32), 1)
        yield bias.astype(np.float32)
        return
    rounded, scale = round_to_int8(weight, axis=1)
    yield _panels(rounded, 4 if scheme == "w8a8-dynamic" else 1)
    yield bias.astype(np.float32)
    yield scale
    if scheme == "w8a8-dynamic":
        yield 128 * rounded.sum(1, dtype=np.int32)


def _panels(weight: Array, together: int) -> Array:
    """[out, in] -> panels of up to 96 outputs, each [in / together][outputs][together], end to end."""
    panels = []
    for start in range(0, len(weight), PANEL * LANES):
        panel = weight[start : start + PANEL * LANES]
        panels.append(panel.reshape(len(panel), -1, together).swapaxes(0, 1).reshape(-1))
    return np.concatenate(panels)


def _rows(values: FloatArray, count: int) -> FloatArray:
    return np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _columns(values: FloatArray, count: int) -> FloatArray:
    return np.pad(values, [(0, 0), (0, count - values.shape[1])])


def _numpy(tensor: torch.Tensor) -> FloatArray:
    values: FloatArray = tensor.detach().numpy()
    return values


def _bias(tensor: torch.Tensor | None, size: int) -> FloatArray:
    return np.zeros(size) if tensor is None else _numpy(tensor)
