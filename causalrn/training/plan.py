"""What `train` and `demo` are asked for, as one object that a resumed training reads back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.known_by import TRAINED_HERE
from causalrn.errors import CausalRNError, CheckpointError, InputError
from causalrn.model.config import CausalRNConfig, ModelConfig
from causalrn.training.card import ModelCard
from causalrn.training.loop import PRESETS, TrainingSettings, choose_device
from causalrn.training.processes import local_device
from causalrn.training.tasks import Corpus, Task, TextTask
from causalrn.training.threads import default_threads


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and how.

    Attributes:
        evaluate_every: steps between evaluations; each renews the checkpoint.
        until: stop early at an evaluation where this share, 0 to 1, is right: of strings free-running, or of bytes.
    """

    card: ModelCard
    settings: TrainingSettings
    evaluate_every: int
    until: float | None = None

    def __post_init__(self) -> None:
        if self.until is not None and not 0 < self.until <= 1:
            raise InputError(f"`until` is {self.until}: it must be above 0 and at most 1")
        if self.evaluate_every < 1:
            raise InputError(f"`evaluate_every` is {self.evaluate_every}: it must be at least 1")

    @property
    def task(self) -> Task:
        """What is trained."""
        assert self.card.task is not None
        return self.card.task

    @classmethod
    def from_options(
        cls,
        *,
        task: Task,
        preset: str = "tiny",
        device: str = "auto",
        seed: int = 0,
        evaluate_every: int | None = None,
        until: float | None = None,
        kind: type[ModelConfig] = CausalRNConfig,
        model: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> TrainingPlan:
        """From the command line's options.

        Args:
            kind: which configuration the model has.
            model: its fields, where they are not the preset's.
            settings: fields of :class:`TrainingSettings`; None stands for the preset's value.
        """
        size = PRESETS[preset]
        defaults = {"steps": size.steps, "batch": size.batch, "learning_rate": size.learning_rate}
        given = {name: value for name, value in settings.items() if value is not None}
        chosen = TrainingSettings(**{**defaults, **given}, seed=seed, device=_device(device))
        if chosen.threads is None and chosen.device == "cpu":
            chosen = dataclasses.replace(chosen, threads=default_threads())
        card = ModelCard(size.model(task, kind, **(model or {})), Alphabet(task.alphabet), task, TRAINED_HERE)
        return cls(card, chosen, evaluate_every or max(25, -(-chosen.steps // 8)), until)

    def on_device(self, device: str | None) -> TrainingPlan:
        """The same plan on another device; None stands for the same kind of device, checked to be here."""
        device = device or self.settings.device.partition(":")[0]
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, device=_device(device)))

    def with_threads(self, threads: int | None) -> TrainingPlan:
        """The same plan with another number of threads; None leaves it."""
        return dataclasses.replace(
            self, settings=dataclasses.replace(self.settings, threads=threads or self.settings.threads)
        )

    def entries(self) -> dict[str, Any]:
        """The plan as JSON values, for resuming."""
        corpus = self.task.corpus if isinstance(self.task, TextTask) else None
        return {
            "card": self.card.entries(),
            "settings": asdict(self.settings),
            "evaluate_every": self.evaluate_every,
            "until": self.until,
            "text": None if corpus is None else {"path": str(corpus.path), "sha256": corpus.sha256},
        }

    @classmethod
    def from_entries(cls, data: Mapping[str, Any], source: str) -> TrainingPlan:
        """Read :meth:`entries` back; `source` is named in errors.

        Raises:
            CheckpointError: an entry is missing or wrong.
            InputError: the text is no longer there, or another one.
        """
        try:
            settings = TrainingSettings(**data["settings"])
            card = dataclasses.replace(ModelCard.from_entries(data["card"], source), known_by=TRAINED_HERE)
            plan = cls(card, settings, data["evaluate_every"], data["until"])
            text = None if data["text"] is None else (Path(data["text"]["path"]), data["text"]["sha256"])
        except (KeyError, TypeError, CausalRNError) as error:
            raise CheckpointError(f"{source}: malformed training plan ({error})") from None
        return plan if text is None else plan._with_text(*text)

    def _with_text(self, path: Path, sha256: str) -> TrainingPlan:
        try:
            corpus = Corpus.open(path)
        except InputError as error:
            raise InputError(f"{error}; the training began with this text: put it back") from None
        if corpus.sha256 != sha256:
            raise InputError(f"{path}: not the text that the training began with (SHA-256 differs): restore it")
        task = TextTask(self.task.length, corpus)
        return dataclasses.replace(self, card=dataclasses.replace(self.card, task=task))


def _device(name: str) -> str:
    return choose_device(local_device(choose_device(name) if name == "auto" else name))
