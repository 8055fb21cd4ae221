"""`causalrn-export convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli.console import console, require_extra
from causalrn.cli.options import (
    MODELS,
    PATH,
    ModelOptions,
    family_options,
    given_options,
    output_option,
    seed_option,
)
from causalrn.model.config import READOUTS


@click.command(
    epilog="""\b
Examples:
  causalrn-export convert model.pth -o run --readout exact
  causalrn-export convert model.pth -o run --readout linear --norm rms
  causalrn-export convert transformer.pth -o run"""
)
@click.argument("weights", type=PATH)
@click.option(
    "--readout",
    type=click.Choice(READOUTS),
    help="How positions read the past; a CausalRN needs it. The weights do not tell: exact and linear models have the "
    "same keys.",
)
@click.option("--model", type=click.Choice(MODELS), help="What the weights are.  [default: what their keys say]")
@family_options
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Strings for the check.")
@click.option("--force", is_flag=True, help="Convert even if another readout copies clearly better.")
@seed_option
@output_option
@click.pass_context
def command(
    context: click.Context, /, weights: Path, output: Path, samples: int, force: bool, seed: int, **options: Any
) -> None:
    """Turn weights saved by the paper's training script into a RUN.

    Reads a state dict (.pth as torch.save wrote it, with or without the prefix of torch.compile; or .safetensors).
    Sizes come from the shapes. With the letters' vocabulary of 29 the copying task is tried with each readout (or kind
    of attention), and a conversion to one that copies clearly worse than another is refused.
    """
    require_extra("torch")
    from causalrn.workflows.convert import convert

    result = convert(
        weights,
        output,
        ModelOptions.pop(options, given_options(context)),
        options["model"],
        samples=samples,
        seed=seed,
        force=force,
    )
    for line in result:
        console().print(line, soft_wrap=True)
