"""What `train` and `convert` are asked about a model, before it is known which kind of model it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from causalrn.errors import InputError
from causalrn.model.config import (
    ACTIVATIONS,
    HEAD_SCALES,
    NORMS,
    POSITIONS,
    READOUTS,
    CausalRNConfig,
    ModelConfig,
    TransformerConfig,
)
from causalrn.workflows.arguments import finite_number, flag, optional_choice, optional_whole

MODELS = ("causalrn", "transformer", "linear-transformer")
"""What can be trained and converted: a CausalRN, or one of its baselines."""


@dataclass(frozen=True)
class ModelOptions:
    """Fields of a configuration that were asked for; what was not is left out.

    Attributes:
        shared: fields that every configuration has.
        causalrn: fields that only a CausalRN has.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    causalrn: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        readout: str | None = None,
        activation: str | None = None,
        no_post_norm: bool = False,
        post_norm: bool = False,
        head_scale: str | None = None,
        heads: int | None = None,
        norm: str | None = None,
        eps: float | None = None,
        positions: str | None = None,
        embedding: int | None = None,
        hidden: int | None = None,
        blocks: int | None = None,
    ) -> ModelOptions:
        """Checked options, as functions and commands name them.

        Raises:
            InputError: a value that no configuration has.
        """
        if flag(no_post_norm, "no_post_norm") and flag(post_norm, "post_norm"):
            raise InputError("`post_norm` and `no_post_norm` contradict each other: give one of them")
        causalrn = {
            "readout": optional_choice(readout, "readout", READOUTS),
            "activation": optional_choice(activation, "activation", ACTIVATIONS),
            "post_norm": False if no_post_norm else flag(post_norm, "post_norm") or None,
            "head_scale": optional_choice(head_scale, "head_scale", HEAD_SCALES),
        }
        shared = {
            "heads": optional_whole(heads, "heads", 1),
            "norm": optional_choice(norm, "norm", NORMS),
            "norm_eps": None if eps is None else finite_number(eps, "eps", 0, 1),
            "positions": optional_choice(positions, "positions", POSITIONS),
            "embedding": optional_whole(embedding, "embedding", 2),
            "hidden": optional_whole(hidden, "hidden", 2),
            "blocks": optional_whole(blocks, "blocks", 1, 1000),
        }
        return cls(_given(shared), _given(causalrn))

    def fields_for(self, model: str, source: str = "") -> tuple[type[ModelConfig], dict[str, Any]]:
        """The kind of configuration that a model of :data:`MODELS` has, and what was asked of its fields.

        Args:
            model: one of :data:`MODELS`.
            source: what tells that it is such a model, for errors; the argument `model` unless named.

        Raises:
            InputError: an option that this kind of model does not have.
        """
        if model == "causalrn":
            return CausalRNConfig, {**self.shared, **self.causalrn}
        if self.causalrn:
            words = {"post_norm": "post_norm" if self.causalrn.get("post_norm") else "no_post_norm"}
            asked = min(words.get(name, name) for name in self.causalrn)
            source = source or f"`model` {model}"
            raise InputError(f"{source} and `{asked}` contradict each other: only a CausalRN has that option")
        return TransformerConfig, {**self.shared, "attention": "linear" if model == "linear-transformer" else "softmax"}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those left to their defaults."""
    return {name: value for name, value in options.items() if value is not None}
