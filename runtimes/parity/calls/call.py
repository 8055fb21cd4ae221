"""Calls of a session as values: what a random walk consists of, for people and as Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "reset", "step", "prefill", "snapshot", "restore", "save", "load", "refuse", "break off", "generate", "state"
]

Refusal = Literal["capacity", "token", "negative", "rows", "dtype", "reset", "foreign state", "no file"]
"""Calls that every session has to refuse."""


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        kind: "state" compares the state; "refuse" has to raise an error; "break off" is a prefill that an error ends
            between two of its parts.
        count: tokens of a prefill or to generate; parts that a prefill gets done before it ends; a snapshot's or a
            file's number.
        rows: of a reset: which row of the table each sequence reads.
        prompt: tokens that generation is given first; tokens of a prefill that breaks off.
        what: is to be refused.
    """

    kind: Kind
    count: int = 0
    rows: tuple[int, ...] = ()
    prompt: int = 0
    what: Refusal = "token"

    def describe(self) -> str:
        """For people, e.g. "prefill(17)"."""
        if self.kind == "reset":
            return f"reset({len(self.rows)})"
        if self.kind == "refuse":
            return f"refuse({self.what})"
        if self.kind == "break off":
            return f"break off prefill({self.prompt}) after part {self.count}"
        if self.kind == "generate":
            return f"generate({self.count}{f', prompt of {self.prompt}' if self.prompt else ''})"
        return f"{self.kind}({'' if self.kind in ('step', 'state') else self.count})"


@dataclass(frozen=True)
class Limits:
    """What a session can take.

    Attributes:
        steps: tokens of a row.
        capacity: most positions; None without a bound.
        batch: most sequences.
        table_rows: rows to choose from.
    """

    steps: int
    capacity: int | None
    batch: int
    table_rows: int


@dataclass
class Course:
    """Where a walk stands: which rows its sequences read, how far they are, and what it has kept."""

    limits: Limits
    rows: tuple[int, ...] = (0,)
    position: int = 0
    snapshots: dict[int, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    files: dict[int, tuple[tuple[int, ...], int]] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Tokens that are left of the rows."""
        return self.limits.steps - self.position

    def fits(self, call: Call) -> bool:
        """Whether a call makes sense here."""
        room, limits = self.room, self.limits
        match call.kind:
            case "reset":
                return 1 <= len(call.rows) <= limits.batch and max(call.rows) < limits.table_rows
            case "step":
                return room >= 1
            case "prefill":
                return 1 <= call.count <= room
            case "break off":
                return 2 <= call.prompt <= room
            case "restore":
                return call.count in self.snapshots
            case "load":
                return call.count in self.files
            case "generate":
                return call.prompt <= room and self.position + call.prompt >= 1 <= call.count
            case "refuse":
                return call.what != "capacity" or limits.capacity is not None
            case "state":
                return self.position >= 1
        return True

    def take(self, call: Call) -> None:
        """Go where a call leads that did what it should."""
        match call.kind:
            case "reset":
                self.rows, self.position = call.rows, 0
            case "step":
                self.position += 1
            case "prefill":
                self.position += call.count
            case "snapshot":
                self.snapshots[call.count] = self.rows, self.position
            case "save":
                self.files[call.count] = self.rows, self.position
            case "restore":
                self.rows, self.position = self.snapshots[call.count]
            case "load":
                self.rows, self.position = self.files[call.count]


def fitting(calls: Sequence[Call], limits: Limits) -> list[Call]:
    """The calls that make sense one after the other, from a session that has just been opened."""
    course, kept = Course(limits), []
    for call in calls:
        if course.fits(call):
            course.take(call)
            kept.append(call)
    return kept


def tokens_read(calls: Sequence[Call], limits: Limits) -> tuple[tuple[int, ...], int]:
    """Rows of the table that calls read, and how far."""
    course, rows, steps = Course(limits), {0}, 1
    for call in calls:
        if call.kind == "reset":
            rows |= set(call.rows)
        asked = call.prompt + (1 if call.kind == "step" else call.count if call.kind == "prefill" else 0)
        steps = max(steps, min(limits.steps, course.position + asked))
        course.take(call)
    return tuple(sorted(rows)), steps
