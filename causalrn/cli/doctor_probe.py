"""What one attempt of `doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["works", "missing", "broken"]


@dataclass(frozen=True)
class Probe:
    """What one attempt found.

    Attributes:
        name: what was tried.
        status: "works"; "missing": not installed or not connected; "broken": there, and fails.
        detail: what happened, in a few words.
        remedy: what to do about it; empty where nothing needs doing.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
