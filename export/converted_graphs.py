"""What exporters share whose graphs another package converts: options, sizes of calls, the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from causalrn.bundle.conversions import Conversion
from causalrn.bundle.converted_spec import ConvertedSpec
from causalrn.bundle.manifest import Graph, Manifest
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import ConfigError
from causalrn.model.state import derive_state
from causalrn.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class ConvertedOptions:
    """What can be asked of converted graphs.

    Attributes:
        backend: one of the conversion's.
        pool: how a growing state goes in and out, one of the conversion's.
        capacity: most positions; None takes the model's.
        max_batch: most sequences; the graphs' memory is planned for so many.
        scheme: "float32", or one of the conversion's quantization schemes.
    """

    backend: str
    pool: str = "growing"
    capacity: int | None = None
    max_batch: int = 1
    scheme: str = "float32"

    @property
    def pool_dtype(self) -> str:
        """Element type of pool rows, which no conversion narrows."""
        return "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether anything is not float32."""
        return self.scheme != "float32"

    @property
    def in_float32(self) -> ConvertedOptions:
        """The same without quantization."""
        return dataclasses.replace(self, scheme="float32")

    def check_for(self, row: Conversion) -> None:
        """Refuse what a conversion does not have.

        Raises:
            ConfigError: a backend, pool or scheme of another one, or a scheme that the backend does not compute.
        """
        asked = (
            ("backend", self.backend, row.backends),
            ("pool", self.pool, row.pools),
            ("scheme", self.scheme, ("float32", *row.schemes)),
        )
        for name, value, possible in asked:
            if value not in possible:
                choices = ", ".join(one for one in possible if one != "float32")
                remedy = f"choose from {choices}" if choices else "leave it out"
                raise ConfigError(f"`{name}` {value} is nothing that {row.title} has: {remedy}")
        computes = row.quantized_backends or row.backends
        if self.is_quantized and self.backend not in computes:
            raise ConfigError(
                f"`backend` {self.backend} of {row.title} computes in float32 only, and `scheme` is {self.scheme}: "
                f"choose {' or '.join(computes)}, or leave `scheme` out"
            )


def derive_converted_state(checkpoint: Checkpoint, options: ConvertedOptions) -> StateSpec:
    """The state that the graphs carry.

    Raises:
        ConfigError: a pool or capacity that does not fit the model.
    """
    spec = derive_state(checkpoint.card.block_config, options.pool, options.capacity)
    spec.check_useful()
    return spec


def converted_manifest(
    checkpoint: Checkpoint,
    spec: StateSpec,
    target: str,
    files: Mapping[str, str],
    *,
    prefill_chunk: int,
    converted: ConvertedSpec,
    packages: tuple[str, ...],
    scheme: str = "float32",
    **entries: Any,
) -> Manifest:
    """The manifest for :func:`causalrn.bundle.bundle_folder.seal_bundle`, its files not hashed yet.

    Args:
        files: by graph, "step", "prefill" and perhaps "step_single", the name of its file.
        packages: distributions beside causalrn and torch whose versions are kept.
        scheme: "float32", or how the weights were quantized.
        entries: further ones of :class:`causalrn.bundle.manifest.Manifest`, `index_type`, ..., and the quantization's
            `form`.
    """
    graphs = {name: Graph(file, 0 if name == "prefill" else spec.step_pad_rows) for name, file in files.items()}
    quantization, form = None, entries.pop("form", None)
    if scheme != "float32":
        quantization = Quantization.of(scheme, form, "float32", (), checkpoint.sha256)
    return Manifest(
        **checkpoint.card.fields(),
        state=spec,
        target=target,
        graphs=graphs,
        opset=None,
        prefill_chunk=prefill_chunk,
        checkpoint_sha256=checkpoint.sha256,
        created_with={name: version(name) for name in ("causalrn", "torch", *packages)},
        streams=(),
        quantization=quantization,
        converted=converted,
        **entries,
    )
