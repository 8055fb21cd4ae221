"""How functions that take a while report how far they are: through a callback that the caller hands in."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Advance(Protocol):
    """Is told of work that was done."""

    def __call__(self, count: int = 1, note: str | None = None, /) -> object:
        """So many more units are done; `note` names what is under way."""


Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""What shows progress; called with (description, total units of work) it gives a context with an :class:`Advance`."""


def no_progress(description: str, total: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(_show_nothing)


def _show_nothing(count: int = 1, note: str | None = None, /) -> None:
    pass


@contextlib.contextmanager
def show_progress(description: str, total: int) -> Iterator[Advance]:
    """Show progress on standard error; gives `advance(count=1, note=None)`.

    A bar in a terminal; elsewhere (logs) a plain line at every eighth of the work, if it takes more than two seconds.
    """
    if not sys.stderr.isatty():
        yield _PlainProgress(description, total).advance
        return
    with _progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(count: int = 1, note: str | None = None, /) -> None:
            if note is None:
                bar.update(task, advance=count)
            else:
                bar.update(task, advance=count, note=note)

        yield advance


_SPEED_OVER_S = 10.0
"""The remaining time follows what the last seconds were like."""
PLAIN_AFTER_S = 2.0
"""Work that is done sooner leaves nothing in a log."""


class _PlainProgress:
    def __init__(self, description: str, total: int) -> None:
        self.description, self.total = description, total
        self.done, self.eighth, self.started = 0, 0, time.monotonic()
        self._told, self._told_at = 0, self.started

    def advance(self, count: int = 1, note: str | None = None, /) -> None:
        self.done += count
        eighth = 8 * self.done // max(self.total, 1)
        if eighth > self.eighth and time.monotonic() - self.started > PLAIN_AFTER_S:
            words = ", ".join(filter(None, (f"{self.description} {self.done}/{self.total}", self._left(), note)))
            with contextlib.suppress(OSError):  # whoever reads has gone away: the work goes on
                print(words, file=sys.stderr, flush=True)
        self.eighth = eighth

    def _left(self) -> str:
        """How long the rest takes if it goes on as since the last line."""
        now, left = time.monotonic(), self.total - self.done
        seconds = left * (now - self._told_at) / max(self.done - self._told, 1)
        self._told, self._told_at = self.done, now
        if not left:
            return ""
        return f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"


def _progress_bar() -> RichProgress:
    """A bar with count, remaining time and a note, made for 80 columns."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=_SPEED_OVER_S,
    )
