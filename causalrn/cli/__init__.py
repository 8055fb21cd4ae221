"""The command line, `causalrn-export`: one module per command, imported when it is called."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from causalrn import __version__
from causalrn.cli.flags import use_flags_of
from causalrn.cli.terminal import ReaderGoneError, show_fallbacks_as_notes
from causalrn.cli.verbosity import reset_verbosity, verbosity_options
from causalrn.interrupts import end_process, raise_interrupts

COMMANDS = {
    "demo": "Train, export, verify and generate in one go, in about a minute.",
    "train": "Train a CausalRN or a baseline in parallel mode on a task.",
    "convert": "Turn weights saved by the paper's training script into a RUN.",
    "export": "Export a RUN's recurrent cell as a bundle for a device.",
    "inspect": "Show what a RUN or a bundle holds.",
    "verify": "Test that a bundle gives the outputs of the trained model.",
    "verify-model": "Test that a recurrent model of yours steps as its parallel form computes.",
    "reseal": "Give a bundle whose graphs other tools have changed new hashes, if it passes.",
    "quantize": "Make a bundle smaller and faster, if it stays good enough.",
    "compile": "Compile a bundle to TensorRT engines for an NVIDIA GPU.",
    "run": "Generate text, or compute logits for token ids.",
    "generate-file": "Generate after every prompt of a file; resumable.",
    "bench": "Measure what tokens cost, beside the machine's floor; or predict it.",
    "serve": "Try a web bundle in a browser, or serve models over HTTP.",
    "doctor": "Find out what works on this machine, by trying it.",
}


_TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""torch sets it itself where nobody has."""


@contextlib.contextmanager
def _kept_from_click() -> Iterator[None]:
    """Keep from click what it would answer itself: an interrupt by an empty line, a closed pipe by exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.Abort from None
    except BrokenPipeError as error:
        raise ReaderGoneError from error


class _LazyGroup(click.Group):
    """Knows its commands by name and imports a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"causalrn.cli.{name.replace('-', '_')}_command")
        command: click.Command = module.command
        if not any(parameter.name == "verbose" for parameter in command.params):
            command.params += verbosity_options()
        use_flags_of(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        if near:
            ctx.fail(f"there is no command {name}: did you mean {' or '.join(near)}?")
        if os.path.lexists(name):
            ctx.fail(f"there is no command {name}, but a file or folder: name a command before it, as inspect {name}")
        ctx.fail(f"there is no command {name}: causalrn-export --help lists them")

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        reset_verbosity()
        with _kept_from_click():  # help is printed here
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        with _kept_from_click():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 a check failed, 2 bad usage or input, 3 compiled but not executed here, "
    "130 interrupted, 141 nobody reads standard output any more.",
)
@click.version_option(__version__, "-V", "--version", prog_name="causalrn-export")
def group() -> None:
    """Take Causal Relation Networks from training to the device, verifiably unchanged.

    \b
    causalrn-export demo                                   see all of it
    causalrn-export train --task copy --length 16 -o run   train
    causalrn-export export run -o bundle                   export for a device
    causalrn-export verify bundle --checkpoint run         verify parity
    causalrn-export run bundle --prompt causalrelationxy   copy 16 letters
    """  # noqa: D301 - \\b has to be the control character that click looks for


group.params += verbosity_options()


def main() -> None:
    """Run the command that was asked for: errors become one line on standard error and an exit code."""
    raise_interrupts()
    show_fallbacks_as_notes()
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it has to stay open
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files hold more than some terminals can show
            stream.reconfigure(errors="backslashreplace")
    from causalrn.cli.console import run_reporting_errors

    caches = os.environ.get(_TORCH_CACHE)
    try:
        code = run_reporting_errors(lambda: group(standalone_mode=False))
    finally:
        if caches is None:
            _remove_empty_cache()
    end_process(code)


def _remove_empty_cache() -> None:
    """Delete the folder that torch makes for compiled code when it is imported, unless it keeps some there."""
    with contextlib.suppress(KeyError, OSError):
        os.rmdir(os.environ[_TORCH_CACHE])  # noqa: PTH106 - pathlib is no shorter
