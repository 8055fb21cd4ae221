"""How much a command says: `-q` only errors, `-v` also versions, times and where an error arose.

One command runs at a time in a process: what it was asked for is kept here, as its flags are in
:mod:`causalrn.cli.flags`.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

from causalrn import __version__
from causalrn.cli.text_lines import visible, wrapped

if TYPE_CHECKING:
    from causalrn.runtimes.progress import Advance


class Verbosity(IntEnum):
    """How much is said beside what was asked for."""

    QUIET, NORMAL, VERBOSE = range(3)


_asked = Verbosity.NORMAL


def reset_verbosity() -> None:
    """Begin a command: as much as usual."""
    global _asked
    _asked = Verbosity.NORMAL


def is_quiet() -> bool:
    """Whether only errors are said."""
    return _asked == Verbosity.QUIET


def is_verbose() -> bool:
    """Whether versions, times and the places of errors are said, too."""
    return _asked == Verbosity.VERBOSE


def _ask(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    global _asked
    if not value:
        return
    wanted = Verbosity.QUIET if parameter.name == "quiet" else Verbosity.VERBOSE
    if _asked not in (Verbosity.NORMAL, wanted):
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them", context)
    _asked = wanted
    if is_verbose():
        note(f"causalrn {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")


def verbosity_options() -> list[click.Option]:
    """`-q` and `-v`, which the program and every command have; read before all others."""
    quiet = "Print errors and what was asked for, nothing else; the exit code tells how it went."
    verbose = "Also say on standard error how long each part takes, and of an error where it arose."
    common: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "callback": _ask}
    return [
        click.Option(["-q", "--quiet"], help=quiet, **common),
        click.Option(["-v", "--verbose"], help=verbose, **common),
    ]


def note(words: str) -> None:
    """A line on standard error, if somebody reads there and `-q` was not given."""
    if not is_quiet():
        with contextlib.suppress(OSError):
            click.echo(wrapped(visible(words), sys.stderr), err=True)


def explain_error(error: BaseException) -> None:
    """Where an error arose, for `-v`."""
    if is_verbose():
        with contextlib.suppress(OSError):
            click.echo(visible("".join(traceback.format_exception(error)).rstrip()), err=True)


@contextlib.contextmanager
def show_progress(description: str, total: int) -> Iterator[Advance]:
    """Progress as :func:`causalrn.runtimes.progress.show_progress` shows it; none for `-q`, its time for `-v`."""
    from causalrn.runtimes import progress

    shown = progress.no_progress if is_quiet() else progress.show_progress
    started = time.monotonic()
    with shown(description, total) as advance:
        yield advance
    if is_verbose():
        sys.stderr.flush()
        note(f"{description}: {time.monotonic() - started:.2f} s")
