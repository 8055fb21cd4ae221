"""How results of workflows save themselves: as text files, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.files import as_path, written_file
from causalrn.bundle.json_values import json_text
from causalrn.workflows.arguments import PathLike


def save_text(place: PathLike, text: Callable[[], str]) -> Path:
    """Write a text, whole or not at all; gives its path.

    Raises:
        InputError: a place that no file can be written to.
        OSError: it cannot be written; what was there before is kept.
    """
    path = as_path(place, "path")
    try:
        with written_file(path) as partial:
            partial.write_text(text(), encoding="utf-8", errors="replace")
    except OSError as error:
        error.filename = str(path)
        raise
    return path


class JsonReport:
    """A result that has a JSON form."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        raise NotImplementedError

    def save_json(self, path: PathLike) -> Path:
        """Write the report as JSON, whole or not at all; gives its path.

        Raises:
            InputError: a place that no file can be written to.
            OSError: it cannot be written; what was there before is kept.
        """
        return save_text(path, lambda: json_text(self.to_json()))
