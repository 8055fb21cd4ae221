"""Methods of a session that one thread at a time may call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from causalrn.errors import RuntimeUnavailableError, SharedSessionError

P = ParamSpec("P")
R = TypeVar("R")


def exclusive(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Have a method of :class:`Session` refuse a call while one of another thread runs, and once the session is closed.

    Raises:
        SharedSessionError: another thread's call runs; nothing has been done.
        RuntimeUnavailableError: the session has been closed.
    """

    @functools.wraps(method)
    def alone(session: Any, /, *arguments: P.args, **named: P.kwargs) -> R:
        if not session._turn.acquire(False):
            raise SharedSessionError(
                f"two threads call one session ({session.runtime}) at once: open a session per thread, or use a lock"
            )
        try:
            if session._is_closed:
                raise RuntimeUnavailableError(f"the session ({session.runtime}) has been closed: open it again")
            return method(session, *arguments, **named)
        finally:
            session._turn.release()

    return alone
