"""Options that several commands share, and how they become objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from causalrn.bundle.precisions import FLOAT32, PRECISIONS
from causalrn.cli.console import free_standard_output
from causalrn.cli.number_types import Whole
from causalrn.cli.verbosity import note
from causalrn.errors import InputError
from causalrn.model.config import ACTIVATIONS, HEAD_SCALES, NORMS
from causalrn.workflows.arguments import MOST_MIB

if TYPE_CHECKING:
    from causalrn.bundle.disk.ownership import Marker
    from causalrn.runtimes import SessionOptions

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)

output_option: Decorator = click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="Folder to write. An earlier bundle there is replaced, unless files were added or changed since.",
)
run_output_option: Decorator = click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="Folder to write. An earlier RUN there is replaced with --overwrite only.",
)
overwrite_option: Decorator = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the output even with files that were added or changed since, and say which.",
)


def tell_what_goes(output: Path, marker: Marker, overwrite: bool) -> None:
    """Say before the work, on standard error, what of a user's `--overwrite` deletes, and how a mount is written."""
    from causalrn.bundle.disk.folders import check_replaceable, shown
    from causalrn.bundle.disk.inplace import must_write_inside

    if foreign := check_replaceable(output, marker, overwrite):
        note(f"--overwrite deletes what else is in {output}: {shown(foreign, len(foreign))}")
    if must_write_inside(output):
        note(f"note: {output} cannot be renamed (a mount, or its parent is not yours): renewed in place")


def checked_place(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Say before the work that a report cannot be written."""
    if value is not None:
        from causalrn.bundle.disk.files import check_output_file

        check_output_file(value)
    return value


def checked_report(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """The same for a JSON report, which standard output takes, too: then what people read goes to standard error."""
    from causalrn.bundle.disk.files import STANDARD_OUTPUT

    if value != STANDARD_OUTPUT:
        return checked_place(context, parameter, value)
    free_standard_output()
    return value


def checked_certificate(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """The same; but a certificate may lie beside the bundle's files, under its own name."""
    if value is not None:
        from causalrn.bundle.disk.files import CERTIFICATE_NAME

        if value.name == CERTIFICATE_NAME and not value.is_symlink() and not value.is_dir() and value.parent.is_dir():
            return value
    return checked_place(context, parameter, value)


def check_places(outputs: Sequence[Path | None], inputs: Sequence[Path | None], folder: Path | None = None) -> None:
    """Refuse files that would be written twice, or that are read.

    Args:
        folder: that is written, too, and replaced as a whole.

    Raises:
        InputError: two outputs are the same file, or one is an input, or lies in the folder.
    """
    read = {os.path.realpath(path) for path in inputs if path is not None}  # a circle of links is no error here
    written: set[str] = set()
    for path in outputs:
        if path is None:
            continue
        if os.path.realpath(path) in read:
            raise InputError(f"{path} is an input of this command: name another file to write")
        if os.path.realpath(path) in written:
            raise InputError(f"{path} is named for two outputs: name a file for each")
        if folder is not None and folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise InputError(f"{path} lies in the output {folder}: name a place outside")
        written.add(os.path.realpath(path))


json_option: Decorator = click.option(
    "--json",
    "json_path",
    type=PATH,
    callback=checked_report,
    is_eager=True,
    help="Also write the report to this file; - is standard output, and the rest goes to standard error.",
)
seed_option: Decorator = click.option(
    "--seed", type=Whole(0, 2**63 - 1), default=0, show_default=True, help="Of random numbers: which ones are drawn."
)


def _all_of(*decorators: Decorator) -> Decorator:
    """Several options as one decorator; `--help` shows them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


family_options: Decorator = _all_of(
    click.option("--heads", type=Whole(1), default=1, show_default=True, help="Parts of H, normalized each by itself."),
    click.option("--norm", type=click.Choice(NORMS), default="layer", show_default=True, help="LayerNorm or RMSNorm."),
    click.option(
        "--activation", type=click.Choice(ACTIVATIONS), default="exp", show_default=True, help="Of a pair of positions."
    ),
    click.option("--no-post-norm", is_flag=True, help="Do not normalize the readout's output."),
    click.option(
        "--head-scale",
        type=click.Choice(HEAD_SCALES),
        help="max: as the official Relation Network; none: as its ablation blocks.  "
        "[default: max for exact+exp with post-norm, and for linear with an eps]",
    ),
)
"""What `train` and `convert` both ask for beside the readout: fields of a configuration."""


def given_options(context: click.Context) -> set[str]:
    """Names of the options that stand on the command line."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


runtime_options: Decorator = _all_of(
    click.option(
        "--provider",
        default="cpu",
        show_default=True,
        help="onnxruntime execution provider: cpu, cuda, tensorrt, ...; never falls back silently.",
    ),
    click.option(
        "--threads",
        type=Whole(1, 256),
        default=1,
        show_default=True,
        help="Threads inside one operator, or of C.",
    ),
    click.option("--no-cuda-graph", is_flag=True, help="Of TensorRT: launch a step kernel by kernel."),
    click.option(
        "--runtime-cache",
        type=PATH,
        callback=checked_place,
        help="Of TensorRT-RTX: keep kernels that it compiles for this GPU in this file.",
    ),
    click.option(
        "--precision",
        type=click.Choice(list(PRECISIONS)),
        default=FLOAT32,
        show_default=True,
        help="Of OpenVINO: what it computes in; all but float32 are judged by a budget.",
    ),
)
"""How onnxruntime, OpenVINO and TensorRT run."""


def pop_session_options(options: dict[str, Any]) -> SessionOptions:
    """Take what :data:`runtime_options` gave out of a command's options."""
    from causalrn.runtimes import SessionOptions

    names = ("provider", "threads", "no_cuda_graph", "runtime_cache", "precision")
    provider, threads, no_cuda_graph, runtime_cache, precision = (options.pop(name) for name in names)
    return SessionOptions(provider, threads, not no_cuda_graph, runtime_cache, precision)


def memory_option(name: str, default: int, what: str, *, least: int = 0) -> Decorator:
    """An option whose number is MiB."""
    kind = Whole(least, MOST_MIB)
    return click.option(name, type=kind, default=default, show_default=True, metavar="MIB", help=what)
