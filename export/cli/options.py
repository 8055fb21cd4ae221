"""Options that several commands share, and how they become objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)

output_option: Decorator = click.option("-o", "--output", type=PATH, required=True, help="Folder to write.")
json_option: Decorator = click.option("--json", "json_path", type=PATH, help="Also write the report to this file.")
seed_option: Decorator = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def runtime_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--provider` and `--threads`, as onnxruntime knows them."""
    provider = click.option(
        "--provider",
        default="cpu",
        show_default=True,
        help="onnxruntime execution provider: cpu, cuda, tensorrt, ...; never falls back silently.",
    )
    threads = click.option(
        "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads inside one operator."
    )
    return provider(threads(function))
