"""How functions that take a while report how far they are: through a callback that the caller hands in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


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
