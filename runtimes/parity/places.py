"""The tensors that are compared, in the order in which a model computes them, and the block that computes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from causalrn.bundle.manifest import stream_names
from causalrn.bundle.state_spec import StateSpec

LOGITS = "logits"


@dataclass(frozen=True)
class Place:
    """Where a compared tensor comes from.

    Attributes:
        kind: a value of the residual stream, a tensor of the state, or the logits.
        block: number of the block that computes it, from 0; None for the embedding and the head.
    """

    kind: Literal["stream", "state", "logits"]
    block: int | None


def tensor_places(blocks: int, spec: StateSpec) -> Mapping[str, Place]:
    """By name, in the order of computation: the stream into a block, the block's state, the stream out of it, logits.

    With -1 blocks there is no stream: the state as its contract has it, and logits.

    Example:
        >>> from causalrn.bundle.state_spec import StateTensor
        >>> spec = StateSpec("none", (StateTensor("00.sum", "sum", ("B", 8), "replace", "constant", None),))
        >>> list(tensor_places(1, spec))
        ['stream.00', '00.sum', 'stream.01', 'logits']
    """
    places: dict[str, Place] = {}
    for reader, stream in enumerate(stream_names(blocks)):
        places[stream] = Place("stream", reader - 1 if reader else None)
        places |= {tensor.name: Place("state", reader) for tensor in spec.tensors if tensor.block == reader}
    unseen = {tensor.name: Place("state", tensor.block) for tensor in spec.tensors if tensor.name not in places}
    return places | unseen | {LOGITS: Place("logits", None)}


def describe_place(tensor: str, block: int | None) -> str:
    """Where a tensor comes from, for people: "block 3", "embedding" or "head"."""
    if block is not None:
        return f"block {block}"
    return "head" if tensor == LOGITS else "embedding"
