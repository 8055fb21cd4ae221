"""Sums over pairs by Triton, for CUDA devices: what is launched, over which blocks of rows.

`triton_passes.py` has the programs. On a CPU they run only in Triton's interpreter (TRITON_INTERPRET=1), for tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from causalrn.errors import RuntimeUnavailableError
from causalrn.model.normalization import centre
from causalrn.model.operators import tiles
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.pair_shapes import check_pair

DEVICE = "cuda"
AUTOMATIC = False
"""It has never run on a GPU: who wants it asks for it, and `make gpu-check` tells whether it is right and how fast."""
DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
"""What may be read; sums are float32, and rounded once."""

WITHOUT_IT = "sums over pairs run in PyTorch's tiles"
LEAST_CAPABILITY = (8, 0)
MOST_WIDTH = 8192
"""Wider rows do not fit the registers of a program: they are left to the tiles."""

_INTERPRETER = "TRITON_INTERPRET"
_ENOUGH_PROGRAMS = 512
_FEWEST_KEYS = 64
"""Of a program, where a few queries leave room for more programs: about what starting one costs."""


class Blocks(NamedTuple):
    """What one program works with; names as in `triton_passes.py`.

    A warp's lanes share a row's channels: `parts` blocks of `channels`, a power of two, that fill D up. The fewer
    channels a block has, the more pairs lie side by side in a warp and the fewer steps a sum over channels takes; the
    more blocks, the longer the program is and takes to compile (docs/performance.md has registers and instructions).
    """

    channels: int
    parts: int
    pairs: int
    warps: int

    @classmethod
    def of(cls, width: int, backward: bool) -> Blocks:
        """For rows of so many channels: as many pairs as registers hold without spilling.

        >>> Blocks.of(192, backward=False)
        Blocks(channels=64, parts=3, pairs=8, warps=1)
        """
        channels = 16 if width <= 128 else max(64, _power_of_two(-(-width // 4)))
        parts, warps = -(-width // channels), _power_of_two(-(-width // 1024))
        values = 32 * warps * (32 if backward else 48)  # that registers have room for, beside those of the rows
        pairs = min(16, max(1, values // (parts * channels)))
        return cls(channels, parts, 1 << pairs.bit_length() - 1, warps)

    def sides(self, owned: int) -> tuple[int, int]:
        """Rows that a program owns, of so many that there are, and rows that it meets at once."""
        side = min(1 << self.pairs.bit_length() // 2, _power_of_two(owned))
        return side, self.pairs // side


def why_not(device: str, dtype: torch.dtype) -> str:
    """Why Triton cannot be used for such tensors here; empty where it can."""
    interpreted = device == "cpu" and os.environ.get(_INTERPRETER) == "1"
    if not (device == DEVICE or interpreted) or dtype not in DTYPES:
        names = ", ".join(str(name).removeprefix("torch.") for name in DTYPES)
        return f"it is for {names} on a GPU (device cuda), not {str(dtype).removeprefix('torch.')} on {device}"
    return _why_unavailable(device)


@functools.cache
def _why_unavailable(device: str) -> str:
    if device == DEVICE:
        if torch.version.hip is not None or not torch.cuda.is_available():
            return "it needs an NVIDIA GPU that torch can use"
        if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
            return "it needs a GPU of compute capability {}.{} or more".format(*LEAST_CAPABILITY)
    try:
        _passes()
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


@functools.cache
def _passes() -> Any:
    """The programs; here, for nobody else pays for importing Triton.

    Raises:
        RuntimeUnavailableError: there is no Triton that can be imported.
    """
    try:
        return importlib.import_module("causalrn.model.operators.triton_passes")
    except ImportError as error:
        raise RuntimeUnavailableError(f"Triton cannot be imported ({error}): pip install triton") from None


def sum_pairs(q: Tensor, k: Tensor, function: PairFunction) -> Tensor:
    """See :class:`causalrn.model.operators.kernels.Kernel`.

    Raises:
        RuntimeUnavailableError: there is no Triton.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    check_pair(q, k)
    if q.shape[-1] > MOST_WIDTH:
        return tiles.sum_pairs(q.float(), k.float(), function).to(q.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if not out.numel():
        return out
    q, k = _prepared(q, function), _prepared(k, function)
    count = _parts_of_keys(q, k)
    if count == 1:
        _walk_over_keys(q, k, None, out[None], function)
        return out
    several = torch.empty(count, *q.shape, device=q.device)
    _walk_over_keys(q, k, None, several, function)
    return out.copy_(several.sum(0))


def differentiate_pairs(q: Tensor, k: Tensor, gradient: Tensor, function: PairFunction) -> tuple[Tensor, Tensor]:
    """See :class:`causalrn.model.operators.kernels.Kernel`."""
    check_pair(q, k)
    check_pair(q, gradient)
    if q.shape[-1] > MOST_WIDTH:
        wide = tiles.differentiate_pairs(q.float(), k.float(), gradient.float(), function)
        return wide[0].to(q.dtype), wide[1].to(k.dtype)
    if not q.numel():
        return torch.zeros_like(q), torch.zeros_like(k)
    dtype, gradient = q.dtype, _readable(gradient)
    q, k = _prepared(q, function), _prepared(k, function)
    gradient_q, gradient_k = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k))
    _walk_over_keys(q, k, gradient, gradient_q[None], function)
    _walk_over_queries(q, k, gradient, gradient_k, function)
    if function.norm == "layer":
        gradient_q, gradient_k = (x - x.mean(-1, keepdim=True) for x in (gradient_q, gradient_k))
    return gradient_q.to(dtype), gradient_k.to(dtype)


def _prepared(x: Tensor, function: PairFunction) -> Tensor:
    """LN0 centres a sum, so it may centre the terms: once, not once per pair, and in float32."""
    return centre(x.float()) if function.norm == "layer" else _readable(x)


def _readable(x: Tensor) -> Tensor:
    """Channels side by side; other strides may be any."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _parts_of_keys(q: Tensor, k: Tensor) -> int:
    """Programs that share the keys of one query, where there are few queries: a step over a pool.

    It depends on shapes alone, and so do results.
    """
    batch, time, heads, width = q.shape
    owned, _ = Blocks.of(width, backward=False).sides(time)
    programs = batch * heads * -(-time // owned)
    return max(1, min(_ENOUGH_PROGRAMS // programs, k.shape[1] // _FEWEST_KEYS))


def _walk_over_keys(q: Tensor, k: Tensor, gradient: Tensor | None, out: Tensor, function: PairFunction) -> None:
    """Write sums, or gradients of q where there is a gradient, into out [parts, B, T, G, D]."""
    batch, time, heads, width = q.shape
    blocks, keys = Blocks.of(width, backward=gradient is not None), k.shape[1]
    queries, at_once = blocks.sides(time)
    given = q if gradient is None else gradient
    grid = (batch * heads * -(-time // queries), out.shape[0])
    keys_of_one = -(-keys // out.shape[0])
    with _device_of(q):
        _passes().walk_over_keys[grid](
            *(q, k, given, out, time, keys, keys_of_one, heads, width, 1 / width, function.eps),
            *(*q.stride()[:3], *k.stride()[:3], *given.stride()[:3], *out.stride()[:4]),
            BACKWARD=gradient is not None,
            QUERIES=queries,
            KEYS=at_once,
            **compile_constants(function, blocks),
        )


def _walk_over_queries(q: Tensor, k: Tensor, gradient: Tensor, out: Tensor, function: PairFunction) -> None:
    """Write the gradients of k into out [B, S, G, D]."""
    batch, time, heads, width = q.shape
    blocks, count = Blocks.of(width, backward=True), k.shape[1]
    keys, at_once = blocks.sides(count)
    grid = (batch * heads * -(-count // keys),)
    with _device_of(q):
        _passes().walk_over_queries[grid](
            *(q, k, gradient, out, time, count, heads, width, 1 / width, function.eps),
            *(*q.stride()[:3], *k.stride()[:3], *gradient.stride()[:3], *out.stride()[:3]),
            QUERIES=at_once,
            KEYS=keys,
            **compile_constants(function, blocks),
        )


def compile_constants(function: PairFunction, blocks: Blocks) -> dict[str, Any]:
    """What programs are compiled for. Fused multiply-add is asked for: what Triton does by itself changes in 3.10."""
    return {
        "ACTIVATION": function.activation,
        "NORM": 0 if function.norm is None else 2 if function.eps else 1,
        "PARTS": blocks.parts,
        "CHANNELS": blocks.channels,
        "num_warps": blocks.warps,
        "enable_fp_fusion": True,
    }


def _device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _power_of_two(n: int) -> int:
    """The smallest that is as large.

    >>> _power_of_two(1), _power_of_two(48)
    (1, 64)
    """
    return 1 << max(0, n - 1).bit_length()
