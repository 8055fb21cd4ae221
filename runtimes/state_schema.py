"""The JSON Schema of a state file's header, which docs/state-files.md publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from causalrn.bundle.json_values import json_schema
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.quantization import NARROW_POOLS, SCHEMES

_SHA256 = r"^[0-9a-f]{64}$"
_ARITHMETIC = rf"^({'|'.join((FLOAT32, *SCHEMES))})(\+({'|'.join(NARROW_POOLS)}))?$"
_TAILS = r"^(-|([0-9a-f]{2})+)( (-|([0-9a-f]{2})+))*$"


@dataclass(frozen=True)
class StateMetadata:
    """What a state file says of itself: safetensors' metadata, whose values are strings.

    Attributes:
        owner: hash of the bundle or weights that it was taken in; empty where no session wrote it.
        position: tokens seen so far, in decimal digits.
        batch: number of sequences, likewise.
        text_tails: per sequence the bytes of a character that generated tokens have begun, in hexadecimal, or "-".
        checkpoint: SHA-256 of the weights file.
        arithmetic: how weights and pool rows are rounded.
        model: the configuration, as JSON text.
    """

    format: Literal["causalrn-state"]
    version: Literal["1"]
    owner: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
    position: Annotated[str, Meta(pattern=r"^[0-9]+$")]
    batch: Annotated[str, Meta(pattern=r"^[1-9][0-9]*$")]
    text_tails: Annotated[str, Meta(pattern=_TAILS)] = ""
    checkpoint: Annotated[str, Meta(pattern=_SHA256)] = ""
    arithmetic: Annotated[str, Meta(pattern=_ARITHMETIC)] = ""
    model: str = ""


@dataclass(frozen=True)
class StateTensorEntry:
    """Where a tensor lies: bytes from the first offset up to the second one, counted from the end of the header."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


def header_schema() -> dict[str, Any]:
    """The JSON Schema of the header: metadata, the last logits, and the state's tensors by name."""
    schema = json_schema(StateMetadata, "header of a causalrn state file (safetensors)")
    tensor = json_schema(StateTensorEntry, "")
    definitions = {**schema.pop("$defs"), **tensor["$defs"]}
    for entry in definitions["StateMetadata"]["properties"].values():
        entry.pop("default", None)  # what is not known is left out, not empty
    entry = {"$ref": "#/$defs/StateTensorEntry"}
    return {
        "$schema": schema["$schema"],
        "title": schema["title"],
        "type": "object",
        "properties": {"__metadata__": {"$ref": "#/$defs/StateMetadata"}, "logits": entry},
        "patternProperties": {r"^state\.([0-9]{2,}\.[A-Za-z0-9_.]+|tokens)$": entry},
        "additionalProperties": False,
        "required": ["__metadata__"],
        "$defs": definitions,
    }
