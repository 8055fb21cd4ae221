"""Ctrl-C and SIGTERM: one exception and one exit code, and where they have to wait."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

EXIT_INTERRUPTED = 130
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_holding = False
"""Whether a block further out holds them already."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Where a KeyboardInterrupt itself passes through text that Python executes, as dataclasses do when they are defined,
    Python ends the process by the signal in the end, whatever was made of it.
    """


def _interrupt(*signal_and_frame: object) -> None:
    raise Interrupted


def raise_interrupts() -> None:
    """Have SIGTERM tidy up as Ctrl-C does; a Ctrl-C that whoever started us has switched off stays so."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def end_process(code: int) -> None:
    """End with a code that nothing changes any more: what interrupts Python's own clearing up ends it at once."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    for number in _INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


@contextlib.contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block; there they raise Interrupted."""
    global _holding  # handlers of signals belong to the process, too
    if _holding or threading.current_thread() is not threading.main_thread():  # signals are not ours to handle
        yield
        return
    waiting: list[int] = []
    _holding = True
    heard = [number for number in _INTERRUPTS if signal.getsignal(number) not in (None, signal.SIG_IGN)]
    before = {number: signal.signal(number, lambda n, _: waiting.append(n)) for number in heard}
    try:
        yield
    finally:
        _holding = False
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        raise Interrupted
