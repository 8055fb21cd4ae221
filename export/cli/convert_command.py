"""`causalrn-export convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.config import READOUTS
from causalrn.export.cli.console import console, require_extra
from causalrn.export.cli.options import PATH, family_options, output_option, pop_model_options, seed_option


@click.command(
    epilog="""\b
Examples:
  causalrn-export convert model.pth -o run --readout exact
  causalrn-export convert model.pth -o run --readout linear --norm rms"""
)
@click.argument("weights", type=PATH)
@click.option(
    "--readout",
    type=click.Choice(READOUTS),
    required=True,
    help="How positions read the past. The weights do not tell: exact and linear models have the same keys.",
)
@family_options
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Strings for the check.")
@click.option("--force", is_flag=True, help="Convert even if another readout copies clearly better.")
@seed_option
@output_option
def command(weights: Path, output: Path, samples: int, force: bool, seed: int, **asked: Any) -> None:
    """Turn weights saved by the paper's training script into a RUN.

    Reads a state dict (.pth as torch.save wrote it, with or without the prefix of torch.compile; or .safetensors).
    Sizes come from the shapes. With the letters' vocabulary of 29 the copying task is tried with each readout, and a
    conversion to one that copies clearly worse than another is refused.
    """
    require_extra("torch")
    from causalrn.export.cli.convert_run import convert

    result = convert(weights, output, pop_model_options(asked), samples=samples, seed=seed, force=force)
    for line in result:
        console().print(line, soft_wrap=True)
