"""causalrn.h: what a model is, as macros; and constants as C arrays, for weights and golden vectors in flash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from causalrn.bundle.native_spec import HEADER, NativeSpec
from causalrn.bundle.state_origin import StateOrigin
from causalrn.bundle.state_spec import ITEM_BYTES
from causalrn.model.causalrn_cell import squares_may_overflow
from causalrn.model.config import CausalRNConfig

SCHEME_MACROS = {
    "float32": "CAUSALRN_FLOAT32",
    "w8": "CAUSALRN_INT8",
    "w8a8-dynamic": "CAUSALRN_INT8_DYNAMIC",
}
_WORDS_PER_LINE = 10
_NUMBER = "0x00000000u"  # of the small model in source/causalrn.h, where the header notices that another one is there
_MODEL = re.compile(r"(/\* -+ this model -+ \*/\n\n).*?(?=/\* -+ what follows from it)", re.DOTALL)


@dataclass(frozen=True)
class Origin:
    """What C source is written of.

    Attributes:
        states: what its states belong to.
        scheme: a key of :data:`SCHEME_MACROS`.
        pool_dtype: element type of pool rows.
        alphabet: name of the token alphabet; "" where there is none.
    """

    states: StateOrigin
    scheme: str
    pool_dtype: str
    alphabet: str


def source_text(name: str) -> str:
    """One of the files of source/."""
    return (files("causalrn.export.c99") / "source" / name).read_text(encoding="utf-8")


def model_macros(
    config: CausalRNConfig,
    capacity: int | None,
    native: NativeSpec,
    origin: Origin,
    *,
    model: int,
    file_bytes: int,
) -> str:
    """The part of causalrn.h that differs between models.

    Args:
        capacity: most positions; None without a bound.
        origin: what it is of, and how it computes.
        model: number that ties the header to its weights.
        file_bytes: size of the weights file.
    """
    rows, inline = native.rows, native.weights == "inline"
    entries: list[tuple[str, object, str]] = [
        ("VOCABULARY", config.vocabulary, "V"),
        ("EMBEDDING", config.embedding, "E"),
        ("HIDDEN", config.hidden, "H"),
        ("BLOCKS", config.blocks, "N"),
        ("HEADS", config.heads, "G"),
        ("CAPACITY", capacity or 0, "C, most positions; 0: no bound"),
        ("POSITIONS", capacity if config.positions == "learned" else 0, "learned positions"),
        ("READOUT", f"CAUSALRN_{config.readout.upper()}", ""),
        ("ACTIVATION", f"CAUSALRN_{config.activation.upper()}", ""),
        ("POST_NORM", int(config.post_norm), "a norm after the readout"),
        ("CENTRED", int(config.norm == "layer"), "which takes the mean away: layer norm, not RMS"),
        ("HEAD_SCALE", int(config.head_scale == "max"), "the largest channel of every head becomes 1"),
        (
            "GUARDED",
            int(squares_may_overflow(config, capacity)),
            "squares could overflow: divided by the largest first",
        ),
        ("WEIGHTS", SCHEME_MACROS[origin.scheme], ""),
        (
            "POOL_BITS",
            8 * ITEM_BYTES[origin.pool_dtype],
            "of a value in the pool; 16: half, 8: int8 and a scale per row",
        ),
        ("MODEL", f"0x{model:08x}u", "the weights say the same"),
        ("CHECKPOINT", f'"{origin.states.checkpoint}"', "SHA-256"),
        ("ARITHMETIC", f'"{origin.states.arithmetic}"', ""),
        ("CONFIGURATION", json.dumps(json.dumps(origin.states.model)[1:-1]), "as a string in JSON, in state files"),
        ("ALPHABET", f'"{origin.alphabet}"', ""),
        ("WEIGHTS_INLINE", int(inline), "in causalrn_weights.h, not in weights.bin"),
        ("FILE_BYTES", file_bytes, "size of weights.bin"),
    ]
    if config.norm_eps:
        entries.append(("NORM_EPS", _float_literal(np.float32(config.norm_eps)), "added beside the root in every norm"))
    lines = [
        f"#define CAUSALRN_{name} {value}" + (f" /* {words} */" if words else "") for name, value, words in entries
    ]
    lines += ["#ifndef CAUSALRN_ROWS", f"#define CAUSALRN_ROWS {rows} /* of a prefill, computed together */", "#endif"]
    return "\n".join(lines) + "\n"


def header_text(macros: str, model: int) -> str:
    """causalrn.h: that of source/, with this model in the place of the one that stands there for editors."""
    return _MODEL.sub(lambda found: found[1] + macros, source_text(HEADER)).replace(_NUMBER, f"0x{model:08x}u", 1)


def c_array(name: str, values: npt.NDArray[np.generic], kind: str) -> Iterable[str]:
    """An array as lines of C; float32 by as many digits as tell it from its neighbours."""
    literal = _float_literal if values.dtype.kind == "f" else str
    yield f"static const {kind} {name}[{values.size}] = {{"
    flat = values.reshape(-1)
    for start in range(0, len(flat), _WORDS_PER_LINE):
        yield "    " + ", ".join(map(literal, flat[start : start + _WORDS_PER_LINE])) + ","
    yield "};"


def _float_literal(value: np.float32) -> str:
    return np.format_float_scientific(value, trim="0") + "f"


def weights_header_text(payload: bytes, model: int) -> str:
    """causalrn_weights.h: the payload as constant words, for flash; `model` ties it to its header."""
    words = np.frombuffer(payload, "<u4")
    lines = (f"    {', '.join(f'0x{word:x}u' for word in words[i : i + 8].tolist())}," for i in range(0, len(words), 8))
    return (
        "/* Weights of the model in causalrn.h, for causalrn_use(&weights, causalrn_payload). Include it in one file.\n"
        " * Written by causalrn-export. */\n"
        '#include "causalrn.h"\n\n'
        f"#if CAUSALRN_MODEL != 0x{model:08x}u\n"
        '#error "causalrn_weights.h and causalrn.h are of different models: take both from one export"\n#endif\n\n'
        "#ifdef __GNUC__\n__attribute__((aligned(64)))\n#endif\n"
        f"static const uint32_t causalrn_payload[{len(words)}] = {{\n" + "\n".join(lines) + "\n};\n"
    )
