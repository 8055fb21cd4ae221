"""Export a checkpoint's cell as C99: causalrn.c, which is the same for all models, and what makes it this one."""

from __future__ import annotations

import zlib
from importlib.metadata import version
from pathlib import Path

from causalrn.checkpoint import Checkpoint
from causalrn.config import CausalRNConfig
from causalrn.errors import ConfigError
from causalrn.export.c99.header import header_text, model_macros, source_text, weights_header_text
from causalrn.export.c99.packing import ALIGNMENT, pack_payload, weights_file
from causalrn.folding import fold
from causalrn.manifest import Manifest, stream_names
from causalrn.native_spec import HEADER, SOURCE, THREADS, WEIGHTS_FILE, WEIGHTS_HEADER, NativeSpec
from causalrn.quantization import C_SCHEMES, PACKED, WEIGHT_ONLY, Quantization
from causalrn.state_spec import StateSpec

_ROWS = {"generic": 32, "cortex-m": 1}
_FILES = {
    "generic": (SOURCE, *THREADS, "example.c", "selftest.c", "Makefile", "CMakeLists.txt"),
    "cortex-m": (SOURCE, *THREADS, "selftest.c", "cortex_m.c", "cortex_m.ld", "cortex_m.mk"),
}
_PREFILL_CHUNK = 512


def export_c(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    capacity: int | None = None,
    scheme: str = "float32",
    pool8: bool = False,
    weights: str = "file",
    profile: str = "generic",
) -> Manifest:
    """Write source and weights into an existing folder.

    Args:
        capacity: most positions; None takes the model's.
        scheme: "float32" or one of :data:`causalrn.quantization.C_SCHEMES`.
        pool8: whether pools hold int8 rows.
        weights: "file", or "inline" for constant arrays.
        profile: one of :data:`causalrn.native_spec.PROFILES`.

    Returns:
        The manifest for :func:`causalrn.manifest.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a model, capacity or format that C source does not have.
    """
    config = checkpoint.card.config
    if not isinstance(config, CausalRNConfig):
        raise ConfigError("C source is written for a CausalRN only, and this is a Transformer: use --target onnx")
    if scheme not in ("float32", *C_SCHEMES):
        raise ConfigError(f"C source has no scheme {scheme}: choose {' or '.join(C_SCHEMES)}")
    if pool8 and config.state_kind != "pool":
        raise ConfigError("--pool8: this model has no pool, its state is of constant size: leave it out")
    spec = StateSpec.from_config(config, "growing", capacity, "int8" if pool8 else "float32")
    spec.check_useful()
    most = spec.tensors[0].capacity
    folded = fold(checkpoint.model)
    payload = pack_payload(folded, most, scheme)
    native = NativeSpec(weights, profile, len(payload), _ROWS[profile])
    _write_sources(folder, config, native, payload, most, scheme=scheme, pool8=pool8)
    quantized = scheme != "float32" or pool8
    return Manifest(
        card=checkpoint.card,
        state=spec,
        target="c",
        graphs={},
        opset=None,
        prefill_chunk=_PREFILL_CHUNK,
        checkpoint_sha256=checkpoint.sha256,
        created_with={name: version(name) for name in ("causalrn", "torch")},
        streams=stream_names(config.blocks),
        quantization=_quantization(scheme, pool8, folded.wpe is not None, checkpoint.sha256) if quantized else None,
        native=native,
    )


def _quantization(scheme: str, pool8: bool, learned: bool, source: str) -> Quantization:
    tables = ("wte", "wpe") if learned else ("wte",)
    kept = tables if scheme != "float32" else ()
    return Quantization(scheme, PACKED if scheme in WEIGHT_ONLY else None, pool8, kept, source)


def _write_sources(
    folder: Path,
    config: CausalRNConfig,
    native: NativeSpec,
    payload: bytes,
    capacity: int | None,
    *,
    scheme: str,
    pool8: bool,
) -> None:
    """causalrn.h, the weights, and the files of the profile."""
    inline = native.weights == "inline"
    unbound = model_macros(config, capacity, native, scheme=scheme, pool8=pool8, model=0, file_bytes=0)
    model = zlib.crc32(payload, zlib.crc32(unbound.encode()))
    file_bytes = len(payload) + ALIGNMENT
    macros = model_macros(config, capacity, native, scheme=scheme, pool8=pool8, model=model, file_bytes=file_bytes)
    (folder / HEADER).write_text(header_text(macros), encoding="utf-8")
    if inline:
        (folder / WEIGHTS_HEADER).write_text(weights_header_text(payload), encoding="utf-8")
    else:
        (folder / WEIGHTS_FILE).write_bytes(weights_file(payload, model))
    for name in _FILES[native.profile]:
        (folder / name).write_text(source_text(name), encoding="utf-8")
