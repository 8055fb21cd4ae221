"""What models are trained on and judged by: copying, copying of mixed lengths, lookup, text. Needs no torch.

A task gives :class:`Examples`: token sequences, and where the next token can be known. All of training, evaluation and
verification go through them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from causalrn.errors import ConfigError
from causalrn.training.tasks.base import IGNORE, PURPOSES, Examples, Task, random_source
from causalrn.training.tasks.copying import CopyMixedTask, CopyTask
from causalrn.training.tasks.lookup import LookupTask
from causalrn.training.tasks.text import Corpus, TextTask

__all__ = [
    "IGNORE",
    "PURPOSES",
    "TASKS",
    "CopyMixedTask",
    "CopyTask",
    "Corpus",
    "Examples",
    "LookupTask",
    "Task",
    "TextTask",
    "make_task",
    "random_source",
    "task_from_entries",
]

TASKS: dict[str, type[Task]] = {task.name: task for task in (CopyTask, CopyMixedTask, LookupTask, TextTask)}


def make_task(name: str, length: int, **options: Any) -> Task:
    """A task by name; `options` are its further fields.

    Raises:
        ConfigError: an unknown name, or a field that this task does not have.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown: this version knows {', '.join(TASKS)}")
    fields = {field.name for field in dataclasses.fields(TASKS[name])}
    for option in options:
        if option not in fields:
            raise ConfigError(f"task {name} and {option} contradict each other: {name} has no {option}")
    return TASKS[name](length, **options)


def task_from_entries(data: Mapping[str, Any] | None) -> Task | None:
    """Read what :meth:`Task.entries` gave; None stands for no task.

    Raises:
        ConfigError: a task that this version does not know.
    """
    if data is None:
        return None
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError(f"task {data!r} is unknown: this version knows {', '.join(TASKS)}")
    values = dict(data)
    name = values.pop("name")
    unknown = values.keys() - TASKS[name].settings() if name in TASKS else ()
    if unknown:
        raise ConfigError(f"task {name} has unknown entries: {', '.join(sorted(unknown))}")
    return make_task(name, values.pop("length", 0), **values)
