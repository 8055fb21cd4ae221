"""Options that several commands share, and how they become objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from causalrn.config import ACTIVATIONS, HEAD_SCALES, NORMS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)

output_option: Decorator = click.option("-o", "--output", type=PATH, required=True, help="Folder to write.")


def _checked_place(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Say before the work that a report cannot be written."""
    if value is not None:
        from causalrn.files import check_output_file

        check_output_file(value)
    return value


json_option: Decorator = click.option(
    "--json", "json_path", type=PATH, callback=_checked_place, help="Also write the report to this file."
)
seed_option: Decorator = click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)


def _all_of(*decorators: Decorator) -> Decorator:
    """Several options as one decorator; `--help` shows them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


family_options: Decorator = _all_of(
    click.option("--heads", type=click.IntRange(min=1), default=1, show_default=True),
    click.option("--norm", type=click.Choice(NORMS), default="layer", show_default=True),
    click.option("--activation", type=click.Choice(ACTIVATIONS), default="exp", show_default=True),
    click.option("--no-post-norm", is_flag=True, help="Do not normalize the readout's output."),
    click.option(
        "--head-scale",
        type=click.Choice(HEAD_SCALES),
        help="max: as the official Relation Network; none: as its ablation blocks.  "
        "[default: max for exact+exp with post-norm]",
    ),
)
"""What `train` and `convert` both ask for beside the readout: fields of `ModelConfig`."""

runtime_options: Decorator = _all_of(
    click.option(
        "--provider",
        default="cpu",
        show_default=True,
        help="onnxruntime execution provider: cpu, cuda, tensorrt, ...; never falls back silently.",
    ),
    click.option(
        "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads inside one operator."
    ),
)
"""How onnxruntime runs."""


def pop_model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the model's options out of a command's `options`, as fields of `ModelConfig`."""
    fields = {name: options.pop(name) for name in ("readout", "heads", "norm", "activation")}
    fields["post_norm"] = not options.pop("no_post_norm")
    for name in ("head_scale", "hidden"):
        value = options.pop(name, None)
        if value is not None:
            fields[name] = value
    return fields
