"""`causalrn-export demo`."""

from __future__ import annotations

from pathlib import Path

import click

from causalrn.cli.console import EXIT_CHECK_FAILED, require_extra
from causalrn.cli.number_types import Whole
from causalrn.cli.options import PATH, seed_option


@click.command(
    epilog="""\b
Examples:
  causalrn-export demo -o demo
  causalrn-export demo -o demo --overwrite     once more"""
)
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="Folder for run and bundle.")
@click.option("--length", type=Whole(2), default=16, show_default=True, help="Letters per string.")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier run and bundle in that folder, and say what goes.")
@click.pass_context
def command(context: click.Context, output: Path, length: int, seed: int, overwrite: bool) -> None:
    """Train, export, verify and generate in one go, in about a minute.

    Trains a small exact CausalRN to copy strings, exports its cell to ONNX, verifies that all runtimes agree with the
    float64 oracle, and lets the exported model copy a prompt that it has never seen, token by token.
    """
    for package in ("torch", "onnx", "onnxscript"):
        require_extra(package)
    from causalrn.cli.demo_run import demonstrate

    if not demonstrate(output, length, seed, overwrite):
        context.exit(EXIT_CHECK_FAILED)
