"""The model card: what a checkpoint and a bundle both say about the model they hold. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.alphabet import Alphabet
from causalrn.config import ModelConfig
from causalrn.errors import ConfigError
from causalrn.tasks import Task, task_from_json


@dataclass(frozen=True)
class ModelCard:
    """A model's configuration, its token alphabet and the task that it was trained on (None where unknown)."""

    config: ModelConfig
    alphabet: Alphabet | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        if self.alphabet is not None and self.alphabet.size != self.config.vocabulary:
            raise ConfigError(
                f"alphabet {self.alphabet.name} has {self.alphabet.size} tokens, the model {self.config.vocabulary}"
            )

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        return {
            "model": self.config.to_json(),
            "alphabet": None if self.alphabet is None else self.alphabet.name,
            "task": None if self.task is None else self.task.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> ModelCard:
        """Read :meth:`to_json`'s form back; `source` is named in errors.

        Raises:
            ConfigError: an entry is missing, unknown or has a wrong value.
        """
        if "model" not in data:
            raise ConfigError(f"{source}: the entry 'model' is missing")
        alphabet = data.get("alphabet")
        return cls(
            ModelConfig.from_json(data["model"], source),
            None if alphabet is None else Alphabet(alphabet),
            task_from_json(data.get("task")),
        )
