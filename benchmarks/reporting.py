"""What benchmarks share beside timing: progress on standard error, and a JSON file of every number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from causalrn.bundle.files import written_file
from causalrn.bundle.json_values import json_text
from causalrn.runtimes.progress import Advance

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
    TimeRemainingColumn(compact=True),
    TextColumn("{task.fields[note]}"),
)


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, gone when it is done; nothing in logs. Gives `advance(count, note)`."""
    with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(count: int = 1, note: str | None = None, /) -> None:
            bar.update(task, advance=count)
            if note is not None:
                bar.update(task, note=note)

        yield advance


def write_json(path: Path | None, data: Any) -> None:
    """Write a report, whole or not at all; None for nowhere."""
    if path is not None:
        with written_file(path) as partial:
            partial.write_text(json_text(data), encoding="utf-8")
