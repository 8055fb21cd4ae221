"""What benchmarks share beside timing: a JSON file of every number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import json_text
from causalrn.workflows.saving import save_text


def write_json(path: Path | None, data: Any) -> None:
    """Write a report, whole or not at all; None for nowhere."""
    if path is not None:
        save_text(path, lambda: json_text(data))
