"""What a state belongs to, and where else it means the same numbers. Needs no torch.

A state fits the bundle that it was taken in. It moves to others, whatever computes them, if they were made of the same
weights, of the same model, and round weights and pool rows in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import parse_json_object
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.quantization import Quantization
from causalrn.errors import ConfigError, StateError

_HOME = "restore it where it was taken"


@dataclass(frozen=True)
class StateOrigin:
    """What a state belongs to, as snapshots and state files say it.

    Attributes:
        owner: hash of the bundle, or of a checkpoint's weights; "" where something else than a session wrote the state.
        checkpoint: SHA-256 of the weights file; "" where that is not known, and the state does not move then.
        arithmetic: how weights and pool rows are rounded, e.g. "float32" or "w8+pool8"; "" likewise.
        model: the configuration as JSON text, for weights may be read in several ways; "" where nothing says it.
    """

    owner: str
    checkpoint: str = ""
    arithmetic: str = ""
    model: str = ""

    @classmethod
    def of_manifest(cls, manifest: Manifest, owner: str = "") -> StateOrigin:
        """Of the states of a bundle, in whatever runs it as its manifest says."""
        arithmetic = name_arithmetic(manifest.quantization)
        return cls(owner, manifest.checkpoint_sha256, arithmetic, model_text(manifest.model))

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> StateOrigin:
        """The same, with the bundle as owner."""
        return cls.of_manifest(bundle.manifest, bundle.sha256)

    @classmethod
    def of_weights(cls, sha256: str, model: Mapping[str, Any]) -> StateOrigin:
        """Of the states of a checkpoint in float32: the hash of its weights, and its configuration."""
        return cls(sha256, sha256, FLOAT32, model_text(model))

    @property
    def kinds(self) -> tuple[str, str, str]:
        """What decides where else the state means the same: checkpoint, arithmetic and model."""
        return self.checkpoint, self.arithmetic, self.model

    def check_takes(self, other: StateOrigin) -> None:
        """Check that a state of `other` can go on here.

        Raises:
            StateError: it belongs to other weights, another model, or another arithmetic, or does not say so.
        """
        is_anonymous = not self.owner and bool(other.checkpoint or other.arithmetic)
        if other.owner == self.owner and not is_anonymous:
            self._check_model(other.model)  # the owner of a RUN's states is the hash of weights alone
            return
        if not all((self.checkpoint, self.arithmetic, other.checkpoint, other.arithmetic)):
            who = "this session" if other.checkpoint and other.arithmetic else "it"
            raise StateError(
                f"the state belongs to another bundle or other weights, and {who} does not say of which checkpoint and "
                f"arithmetic: {_HOME}"
            )
        if other.checkpoint != self.checkpoint:
            raise StateError(
                f"the state belongs to another bundle, of the checkpoint {_short(other.checkpoint)}, and this session "
                f"is of {_short(self.checkpoint)}: {_HOME}, or in a bundle of the same checkpoint"
            )
        if other.arithmetic != self.arithmetic:
            raise StateError(
                f"the state belongs to another bundle, with the arithmetic {other.arithmetic[:40]!r}, and this session "
                f"computes in {self.arithmetic!r}: {_HOME}, or in a bundle that is quantized likewise"
            )
        self._check_model(other.model)

    def _check_model(self, other: str) -> None:
        """The same weights may be read as another model, say with another activation."""
        if not other or not self.model:
            return
        try:
            theirs, own = (parse_json_object(text, "the state's model") for text in (other, self.model))
        except ConfigError as error:
            raise StateError(f"{error}: {_HOME}") from None
        for name in sorted(theirs.keys() | own.keys()):
            if theirs.get(name) != own.get(name):
                raise StateError(
                    "the state belongs to another bundle, of the same weights in another model: "
                    f"{name[:40]} is {str(theirs.get(name))[:40]}, here {own.get(name)}: {_HOME}"
                )


def name_arithmetic(quantization: Quantization | None) -> str:
    """How weights and pool rows are rounded: two states of one checkpoint can be compared where this is equal.

    Example:
        >>> name_arithmetic(None), name_arithmetic(Quantization("w8", "nbits", pool8=True, kept=(), source_sha256=""))
        ('float32', 'w8+pool8')
    """
    if quantization is None:
        return FLOAT32
    return "+".join([quantization.scheme, *quantization.pool_names])


def model_text(model: Mapping[str, Any]) -> str:
    """A configuration in one line of JSON, its entries sorted."""
    return json.dumps(dict(model), sort_keys=True, separators=(",", ":"))


def _short(sha256: str) -> str:
    return f"{sha256[:12]}..." if len(sha256) > 12 else sha256
