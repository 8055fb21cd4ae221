"""`causalrn-export train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from causalrn.config import READOUTS
from causalrn.errors import InputError
from causalrn.export.cli.console import console, require_extra
from causalrn.export.cli.options import family_options, output_option, pop_model_options, seed_option


@click.command(
    epilog="""\b
Examples:
  causalrn-export train --task copy --length 16 -o run
  causalrn-export train --task copy --length 64 --preset paper --until 0.995 -o run64
  causalrn-export train --resume -o run64"""
)
@click.option("--task", type=click.Choice(["copy"]), default="copy", show_default=True, help="What to learn.")
@click.option("--length", type=click.IntRange(min=1), default=16, show_default=True, help="Letters per string.")
@click.option("--readout", type=click.Choice(READOUTS), default="exact", show_default=True)
@family_options
@click.option("--hidden", type=click.IntRange(min=2), help="Hidden width.  [default: the preset's]")
@click.option(
    "--preset",
    type=click.Choice(["tiny", "small", "paper"]),
    default="tiny",
    show_default=True,
    help="tiny E=H=64, 4 blocks; small 128, 6; paper 192, 12, batch 320.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps.  [default: the preset's]")
@click.option("--batch", type=click.IntRange(min=1), help="Strings per step.  [default: the preset's]")
@click.option("--learning-rate", type=float, help="Peak learning rate.  [default: the preset's]")
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=1),
    help="Evaluate so often.  [default: an eighth of all, at least 25]",
)
@click.option("--accumulate", type=click.IntRange(min=1), help="Take a step's strings in so many parts.")
@click.option("--until", type=float, help="Stop early once this share of strings is copied, e.g. 0.995.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier RUN in the output folder.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in the output folder.")
@output_option
@click.pass_context
def command(context: click.Context, /, output: Path, overwrite: bool, resume: bool, **options: Any) -> None:
    """Train a CausalRN in parallel mode on a task.

    Writes model.safetensors, config.json and log.jsonl (loss and accuracy) into the output folder. The checkpoint is
    renewed at every evaluation; Ctrl-C keeps the last one, and --resume goes on from it as if nothing had happened.
    """
    require_extra("torch")
    from causalrn.export.cli.training_run import TrainingPlan, resume_training, run_training

    if resume:
        given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if overwrite or set(given) - {"device"}:
            raise InputError("--resume goes on with the options of the start: give -o and --device only")
        result = resume_training(output, options["device"])
    else:
        del options["task"]
        model = pop_model_options(options)
        result = run_training(TrainingPlan.from_options(model=model, **options), output, overwrite=overwrite)
    console().print(result.summary(), soft_wrap=True)
