"""Ctrl-C and SIGTERM wait where work must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_holding = False
"""Whether a block further out holds them already."""


@contextlib.contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block; there they raise KeyboardInterrupt."""
    global _holding
    if _holding or threading.current_thread() is not threading.main_thread():  # signals are not ours to handle
        yield
        return
    waiting: list[int] = []
    _holding = True
    before = {number: signal.signal(number, lambda n, _: waiting.append(n)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        _holding = False
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt
