"""`causalrn-export convert`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.cli.console import console, require_extra
from causalrn.cli.options import (
    PATH,
    FiniteRange,
    family_options,
    given_options,
    output_option,
    seed_option,
)
from causalrn.model.config import READOUTS
from causalrn.runtimes.progress import show_progress
from causalrn.training.tasks import CopyTask
from causalrn.workflows.model_options import MODELS

if TYPE_CHECKING:
    from causalrn.workflows.convert import ConvertResult


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
@click.option(
    "--eps",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="normalization_eps of the paper's code, which every norm adds beside its root.",
)
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Strings for the check.")
@click.option("--force", is_flag=True, help="Convert even if another readout copies clearly better.")
@seed_option
@output_option
@click.pass_context
def command(context: click.Context, /, weights: Path, output: Path, activation: str, **options: Any) -> None:
    """Turn weights saved by the paper's training script, or by one of your own, into a RUN.

    Reads what torch.save or safetensors wrote, under any name: a state dict, with whatever prefixes wrappers gave its
    keys; a dictionary that holds one beside optimizer and epoch; a Lightning checkpoint; safetensors in shards (the
    folder or its index); a RUN. Nothing in a file is executed. Sizes come from the shapes. With the letters' vocabulary
    of 29 the copying task is tried with each readout (or kind of attention), and a conversion to one that copies
    clearly worse than another is refused.
    """
    require_extra("torch")
    from causalrn.workflows.convert import convert

    chosen = activation if "activation" in given_options(context) else None
    result = convert(weights, output=output, activation=chosen, **options, progress=show_progress)
    for line in _describe(result, output):
        console().print(line, soft_wrap=True)


def _describe(result: ConvertResult, output: Path) -> Iterator[str]:
    """What was found, and where it is."""
    config = result.run.card.config
    yield f"{result.source}: {config.describe()}"
    if result.unwrapped:
        yield f"unwrapped: {'; '.join(result.unwrapped)}"
    if result.accuracies is not None:
        shown = ", ".join(f"{name} {100 * accuracy:.1f} %" for name, accuracy in result.accuracies.items())
        length = CopyTask.length_for(config.capacity or 0)
        yield f"copying {length} letters, tokens right with each {result.choice}: {shown}"
        if result.task is None:
            yield f"no {result.choice} copies better than chance: the model was trained on another task, or not at all"
    yield f"wrote {output}"
