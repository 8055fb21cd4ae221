"""What commands share on the terminal: the console, reports, and errors as one line with an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from causalrn.cli.flags import in_flags
from causalrn.cli.terminal import ReaderGoneError, drop_output
from causalrn.cli.text_lines import visible, wrapped
from causalrn.cli.verbosity import explain_error, is_quiet
from causalrn.errors import CausalRNError, RuntimeUnavailableError
from causalrn.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FINE, EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_NOT_EXECUTED = 0, 1, 2, 3
EXIT_READER_GONE = 141
"""As a shell shows tools that SIGPIPE ends."""

_EXTRAS = dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_ir"), "causalrn[export]") | {
    **dict.fromkeys(("jinja2", "matplotlib"), "causalrn[report]"),
    **{name: name for name in ("onnxruntime", "numpy", "safetensors")},
}
"""What to install where a package is missing; the last three come with causalrn, unless somebody removed them."""


_JSON_ONLY = "causalrn.json_only"
"""Of a click context: standard output is a JSON report's."""

_NO_MEMORY = "not enough memory for this: ask for less (batch, length, samples), or use a smaller model or input"


def run_reporting_errors(action: Callable[[], Any]) -> int:
    """Run a command; turn what goes wrong into one line on standard error and an exit code."""
    try:
        result = _explained(action)
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_FINE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        for line in visible(shown.getvalue()).splitlines():
            print(wrapped(line, sys.stderr), file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except CausalRNError as error:
        return _fail(in_flags(str(error)), error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            raise
        return _fail(_missing(package))
    except (BrokenPipeError, ReaderGoneError):
        drop_output()
        return EXIT_READER_GONE
    except OSError as error:
        return _fail(_describe_os_error(error))
    except MemoryError:
        return _fail(_NO_MEMORY)
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in ("allocate memory", "out of memory")):
            raise
        return _fail(_NO_MEMORY)


def _explained(action: Callable[[], Any]) -> Any:
    """What an action gives; where it fails and `-v` was given, standard error shows where."""
    try:
        return action()
    except (click.exceptions.Exit, click.ClickException, ReaderGoneError, BrokenPipeError):
        raise
    except Exception as error:
        explain_error(error)
        raise


def _fail(message: str, code: int = EXIT_BAD_INPUT) -> int:
    """One line on standard error; under torchrun from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        complain(message)
    return code


def complain(message: str) -> None:
    """One sentence on standard error, if somebody reads there: a line, which a terminal shows between words."""
    with contextlib.suppress(OSError):
        print(wrapped("Error: " + visible(" ".join(message.split())), sys.stderr), file=sys.stderr)


def _describe_os_error(error: OSError) -> str:
    remedy = {
        errno.ENOSPC: "the disk is full: free some space and run again",
        errno.EACCES: f"permission denied: {_permission_remedy(error.filename)}",
        errno.EROFS: "the file system is read-only: choose another place",
    }.get(error.errno or 0, error.strerror or str(error))
    name = error.filename if isinstance(error.filename, str | os.PathLike) else None  # not a descriptor's number
    return f"{name}: {remedy}" if name else remedy


def _permission_remedy(name: Any) -> str:
    """What to do about a file that could not be opened: whether it is there tells reading from writing."""
    if isinstance(name, str):
        try:
            os.lstat(name)
            if not os.access(name, os.R_OK):
                return "make it readable for you, or name another one"
        except PermissionError:
            return "you may not enter its folder: ask for access, or name another place"
        except OSError:  # it was to be made
            pass
    return "choose a place that you may write to"


def console() -> Console:
    """The console for what people read: standard output, at most 100 columns wide; nothing where `-q` was given."""
    from rich.console import Console

    from causalrn.cli.lasting_console import LastingConsole

    to_stderr = output_stream() is sys.stderr
    # no markup: what is printed may hold a path with brackets in it
    width = min(Console().width, 100)
    return LastingConsole(highlight=False, markup=False, width=width, stderr=to_stderr, quiet=is_quiet())


def output_stream() -> TextIO:
    """Where text goes that was asked for: standard output, unless a JSON report takes it."""
    context = click.get_current_context(silent=True)
    return sys.stderr if context is not None and context.meta.get(_JSON_ONLY, False) else sys.stdout


def free_standard_output() -> None:
    """Leave standard output to a JSON report: what people read goes to standard error for the rest of the command."""
    click.get_current_context().meta[_JSON_ONLY] = True


def name_written(*paths: Path | None) -> None:
    """Name the files that a command has written; standard output is none."""
    from causalrn.bundle.disk.files import STANDARD_OUTPUT

    for path in paths:
        if path not in (None, STANDARD_OUTPUT):
            console().print(f"wrote {path}")


def write_json(path: Path | None, data: Any) -> None:
    """Write a report where `--json` was given."""
    write_all_json([(path, data)])


def write_all_json(reports: Sequence[tuple[Path | None, Any]]) -> None:
    """Write reports where files were named for them: all of them, or none if one cannot be written."""
    from causalrn.bundle.disk.files import STANDARD_OUTPUT, written_file
    from causalrn.bundle.json_values import json_text

    with contextlib.ExitStack() as stack:
        for path, data in sorted(reports, key=_is_filled):  # contexts end in reverse: what cannot be undone fails first
            if path == STANDARD_OUTPUT:
                click.echo(json_text(data), nl=False)
            elif path is not None:
                stack.enter_context(written_file(path)).write_text(json_text(data))


def _is_filled(report: tuple[Path | None, Any]) -> bool:
    """Whether a report goes into a pipe or device, which cannot be undone as a new file can."""
    from causalrn.bundle.disk.files import is_replaced

    path, _ = report
    return path is not None and not is_replaced(path)


def require_extra(package: str, extra: str | None = None) -> None:
    """Say early that an optional package is missing, before any work; `extra` if it is not the usual one to install.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise RuntimeUnavailableError(_missing(package, extra))


def _missing(package: str, extra: str | None = None) -> str:
    return f"this needs {package}, which is not installed: pip install '{extra or _EXTRAS[package]}'"
