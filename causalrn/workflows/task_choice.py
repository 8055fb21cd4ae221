"""Which task of a bundle's model can be measured here."""

from __future__ import annotations

from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import InputError
from causalrn.training.card import card_of
from causalrn.training.tasks import Corpus, Task, TextTask


def chosen_task(bundle: Bundle, insisted: str | None, text: Path | None) -> Task | None:
    """The task to measure; None where it is unknown, or its text is not here.

    Args:
        insisted: name of a task, if the caller insists on one.
        text: the file that a text model is measured on.

    Raises:
        InputError: the options ask for another task than the model's.
    """
    task = card_of(bundle).task
    name = "unknown" if task is None else task.name
    if insisted not in (None, name):
        raise InputError(f"`task` {insisted} and {bundle.path} contradict each other: its task is {name}")
    if text is not None and not isinstance(task, TextTask):
        raise InputError(f"`text` and {bundle.path} contradict each other: the model was not trained on a text")
    if isinstance(task, TextTask):
        if insisted is not None and text is None:
            raise InputError("`task` text needs `text`, the file")
        return None if text is None else TextTask(task.length, Corpus.open(text))
    return task


def why_no_task(bundle: Bundle, task: Task | None) -> str:
    """Why accuracy cannot be measured, for people; `task` is what :func:`chosen_task` gave."""
    known = card_of(bundle).task
    if known is None:
        return "no task is known for this model"
    if task is None:
        return "the text is not here, name it with `text`"
    return f"the task needs {known.capacity} positions, more than there are"


def fits(bundle: Bundle, task: Task | None) -> bool:
    """Whether a whole sequence of the task fits into the bundle's positions."""
    capacity = bundle.manifest.state.capacity
    return task is not None and (capacity is None or capacity >= task.capacity)
