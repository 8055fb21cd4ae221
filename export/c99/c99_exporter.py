"""Export a checkpoint's cell as C99: causalrn.c, which is the same for all models, and what makes it this one."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from causalrn.bundle.bundle_folder import GIT_ATTRIBUTES, KEEP_LINE_ENDS
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.manifest import Manifest, stream_names
from causalrn.bundle.native_spec import (
    API,
    API_HEADER,
    COMMON_API_HEADER,
    HEADER,
    PREFIX,
    SOURCE,
    THREADS,
    WEB_PROFILE,
    WEIGHTS_HEADER,
    NativeSpec,
    renamed,
)
from causalrn.bundle.quantization import C_SCHEMES, PACKED, WEIGHT_ONLY, Quantization, pool_name
from causalrn.bundle.state_origin import StateOrigin
from causalrn.errors import ConfigError
from causalrn.export.c99.amalgamation import amalgamated_api, amalgamated_source
from causalrn.export.c99.companions import write_bindings
from causalrn.export.c99.header import Origin, header_text, model_macros, source_text, weights_header_text
from causalrn.export.c99.packing import ALIGNMENT, pack_payload, weights_file
from causalrn.model.config import CausalRNConfig
from causalrn.model.state import derive_state
from causalrn.training.checkpoint import Checkpoint

_ROWS = {"generic": 32, "cortex-m": 1, WEB_PROFILE: 32}
_FILES = {
    "generic": (*THREADS, API_HEADER, COMMON_API_HEADER, "example.c", "selftest.c", "Makefile", "CMakeLists.txt"),
    "cortex-m": (*THREADS, "selftest.c", "cortex_m.c", "cortex_m.ld", "cortex_m.mk"),
    WEB_PROFILE: (),
}
_PREFILL_CHUNK = 512


@dataclass(frozen=True)
class COptions:
    """How C source is written.

    Attributes:
        capacity: most positions; None takes the model's.
        scheme: "float32" or one of :data:`causalrn.bundle.quantization.C_SCHEMES`.
        pool_dtype: element type of pool rows: "float32", or one of :data:`causalrn.bundle.quantization.NARROW_POOLS`.
        weights: "file", or "inline" for constant arrays.
        profile: one of :data:`causalrn.bundle.native_spec.PROFILES`, or its `WEB_PROFILE`.
        prefix: of all names in the source.
        bindings: of :data:`causalrn.bundle.native_spec.BINDINGS`: written beside it, in folders of their own.
        packages: of :data:`causalrn.bundle.native_spec.PACKAGES`, which need inline weights; their folder is written by
            :func:`causalrn.export.c99.companions.write_package`, once there are golden vectors.
    """

    capacity: int | None = None
    scheme: str = "float32"
    pool_dtype: str = "float32"
    weights: str = "file"
    profile: str = "generic"
    prefix: str = PREFIX
    bindings: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def is_quantized(self) -> bool:
        """Whether anything is not float32."""
        return self.scheme != "float32" or self.pool_dtype != "float32"

    @property
    def in_float32(self) -> COptions:
        """The same without quantization."""
        return dataclasses.replace(self, scheme="float32", pool_dtype="float32")


def export_c(checkpoint: Checkpoint, folder: Path, options: COptions) -> Manifest:
    """Write source and weights into an existing folder.

    Returns:
        The manifest for :func:`causalrn.bundle.manifest.seal_bundle`, its files not hashed yet.

    Raises:
        ConfigError: a model, capacity or format that C source does not have.
    """
    config = checkpoint.card.block_config
    if not isinstance(config, CausalRNConfig):
        raise ConfigError("C source is written for a CausalRN only, and this is a Transformer: use `target` onnx")
    if options.scheme not in ("float32", *C_SCHEMES):
        raise ConfigError(f"C source has no scheme {options.scheme}: choose {' or '.join(C_SCHEMES)}")
    if options.pool_dtype != "float32" and config.state_kind != "pool":
        name = pool_name(options.pool_dtype)
        raise ConfigError(f"`{name}`: this model has no pool, its state is of constant size: leave it out")
    spec = derive_state(config, "growing", options.capacity, options.pool_dtype)
    spec.check_useful()
    folded, capacity = checkpoint.folded, spec.capacity
    payload = pack_payload(folded, capacity, options.scheme)
    rows = 1 if options.packages else _ROWS[options.profile]
    native = NativeSpec(
        options.weights, options.profile, len(payload), rows, prefix=options.prefix, packages=options.packages
    )
    manifest = Manifest(
        **checkpoint.card.fields(),
        state=spec,
        target="c",
        graphs={},
        opset=None,
        prefill_chunk=_PREFILL_CHUNK,
        checkpoint_sha256=checkpoint.sha256,
        created_with={name: version(name) for name in ("causalrn", "torch")},
        streams=stream_names(config.blocks),
        quantization=_quantization(options, checkpoint) if options.is_quantized else None,
        native=native,
    )
    alphabet = checkpoint.card.alphabet
    states = StateOrigin.of_manifest(manifest)
    origin = Origin(states, options.scheme, options.pool_dtype, alphabet.name if alphabet else "")
    _write_sources(folder, config, capacity, native, payload, origin)
    write_bindings(folder, native, options.bindings)
    return manifest


def _quantization(options: COptions, checkpoint: Checkpoint) -> Quantization:
    tables = ("wte", "wpe") if checkpoint.card.block_config.positions == "learned" else ("wte",)
    kept = () if options.scheme == "float32" else tables
    form = PACKED if options.scheme in WEIGHT_ONLY else None
    return Quantization.of(options.scheme, form, options.pool_dtype, kept, checkpoint.sha256)


def _write_sources(
    folder: Path, config: CausalRNConfig, capacity: int | None, native: NativeSpec, payload: bytes, origin: Origin
) -> None:
    """causalrn.c and .h, the weights, and the files of the profile."""
    macros = partial(model_macros, config, capacity, native, origin, file_bytes=len(payload) + ALIGNMENT)
    model = zlib.crc32(payload, zlib.crc32(macros(model=0).encode()))
    texts = {SOURCE: amalgamated_source(), HEADER: header_text(macros(model=model), model)}
    texts |= {name: source_text(name) for name in _FILES[native.profile]}
    if API_HEADER in texts:
        texts[API] = amalgamated_api()
    if native.weights == "inline":
        texts[WEIGHTS_HEADER] = weights_header_text(payload, model)
    else:
        (folder / WEIGHTS_FILE).write_bytes(weights_file(payload, model))
    texts = {renamed(name, native.prefix): renamed(text, native.prefix) for name, text in texts.items()}
    texts[GIT_ATTRIBUTES] = KEEP_LINE_ENDS
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
