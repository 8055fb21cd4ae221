"""The model card: what a checkpoint and a bundle both say about the model they hold. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.json_values import from_json, to_json
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.manifest import MANIFEST_NAME, Manifest
from causalrn.bundle.state_spec import STATE, StateSpec
from causalrn.errors import BundleError, ConfigError, InputError
from causalrn.model.config import Configuration, ModelConfig
from causalrn.model.state import derive_state
from causalrn.training.tasks import Task, task_from_entries


@dataclass(frozen=True)
class ModelCard:
    """A model: its configuration, its token alphabet, its task, and how that is known.

    Attributes:
        alphabet: None for token ids alone.
        task: what it was trained on; None where unknown.
        known_by: how it is known that the configuration is right; None where that was not recorded.
    """

    config: Configuration
    alphabet: Alphabet | None = None
    task: Task | None = None
    known_by: KnownBy | None = None

    def __post_init__(self) -> None:
        if self.alphabet is not None and self.alphabet.size != self.config.vocabulary:
            raise ConfigError(
                f"alphabet {self.alphabet.name} has {self.alphabet.size} tokens, the model {self.config.vocabulary}"
            )

        if self.task is not None and self.task.capacity > (self.config.capacity or self.task.capacity):
            raise ConfigError(
                f"{self.task.describe()} takes {self.task.capacity} positions, the model has {self.config.capacity}"
            )

    @property
    def block_config(self) -> ModelConfig:
        """The configuration of a CausalRN or one of its baselines, for what knows their blocks.

        Raises:
            ConfigError: a model that somebody has brought.
        """
        if not isinstance(self.config, ModelConfig):
            raise ConfigError(f"{self.config.describe()}: only a CausalRN or one of its baselines will do here")
        return self.config

    def entries(self) -> dict[str, Any]:
        """The card as JSON values, under the names that manifests and checkpoint folders have."""
        return {
            "model": self.config.entries(),
            "alphabet": None if self.alphabet is None else self.alphabet.name,
            "task": None if self.task is None else self.task.entries(),
            "known_by": None if self.known_by is None else to_json(self.known_by),
        }

    def fields(self) -> dict[str, Any]:
        """The card as the fields of a manifest or a report that have these names."""
        return self.entries() | {"known_by": self.known_by}

    @classmethod
    def from_entries(cls, data: Mapping[str, Any], source: str) -> ModelCard:
        """Read :meth:`entries` back; `source` is named in errors.

        Raises:
            ConfigError: an entry is missing, unknown or has a wrong value.
        """
        if "model" not in data:
            raise ConfigError(f"{source}: the entry 'model' is missing")
        alphabet, known_by = data.get("alphabet"), data.get("known_by")
        config = Configuration.from_entries(data["model"], source)
        known = None if known_by is None else from_json(known_by, KnownBy, f"{source}: known_by")
        try:
            named = None if alphabet is None else Alphabet(alphabet)
            return cls(config, named, task_from_entries(data.get("task")), known)
        except (ConfigError, InputError) as error:
            raise ConfigError(f"{source}: {error}") from None


def card_of(bundle: Bundle) -> ModelCard:
    """The model that a bundle holds, once its manifest has been found whole.

    Raises:
        BundleError: a model, alphabet or task that this version does not know, or a state that is not the model's.
    """
    return read_card(bundle.manifest, str(bundle.path / MANIFEST_NAME))


def read_card(manifest: Manifest, source: str) -> ModelCard:
    """The model that a manifest speaks of; `source` is named in errors.

    Raises:
        BundleError: as :func:`card_of`.
    """
    try:
        card = ModelCard.from_entries(
            {"model": manifest.model, "alphabet": manifest.alphabet, "task": manifest.task}, source
        )
        card = dataclasses.replace(card, known_by=manifest.known_by)
        belongs = _belongs(manifest.state, card.config)
    except (ConfigError, InputError) as error:
        text = str(error)
        raise BundleError(text if text.startswith(source) else f"{source}: {text}") from None
    if not belongs:
        raise BundleError(f"{source}: malformed manifest (the state does not belong to the model): export it again")
    shows_none = not manifest.shows_streams and not manifest.streams
    streams = len(set(manifest.streams))
    if not shows_none and streams != card.config.streams:
        raise BundleError(
            f"{source}: malformed manifest ({streams} streams, the model has {card.config.streams}): export it again"
        )
    return card


def _belongs(state: StateSpec, config: Configuration) -> bool:
    """Whether a state is the model's; only the manifest knows that of a model that somebody has brought."""
    if not isinstance(config, ModelConfig):
        return state.capacity == config.capacity and all(tensor.role == STATE for tensor in state.tensors)
    pool = state.pool if state.has_pool else "growing"
    return state == derive_state(config, pool, state.capacity, state.pool_dtype, present=state.gives_fixed_pools)
