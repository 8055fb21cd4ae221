"""What one attempt of `doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from causalrn.compiling.programs import Outcome

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

    @classmethod
    def of_failure(cls, name: str, outcome: Outcome, remedy: str) -> Probe:
        """What a program that failed says; one that had to be stopped may only need a machine that is less busy."""
        if outcome.code is None:
            remedy = f"try again if this machine is busy; else: {remedy}"
        return cls(name, "broken", outcome.reason, remedy)
