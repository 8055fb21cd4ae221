"""Ctrl-C and SIGTERM of a process of the command line, from its first moment to its last."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

EXIT_INTERRUPTED = 130


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
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)
