"""`causalrn-export train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.config import READOUTS
from causalrn.export.cli.console import console, require_extra
from causalrn.export.cli.options import output_option, seed_option


@click.command(
    epilog="""\b
Examples:
  causalrn-export train --task copy --length 16 -o run
  causalrn-export train --task copy --length 64 --preset paper --device auto -o run64"""
)
@click.option("--task", type=click.Choice(["copy"]), default="copy", show_default=True, help="What to learn.")
@click.option("--length", type=click.IntRange(min=1), default=16, show_default=True, help="Letters per string.")
@click.option("--readout", type=click.Choice(READOUTS), default="exact", show_default=True)
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
@click.option("--evaluate-every", type=click.IntRange(min=1), help="Steps between evaluations.  [default: an eighth]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier RUN in the output folder.")
@output_option
def command(output: Path, **options: Any) -> None:
    """Train a CausalRN in parallel mode on a task.

    Writes model.safetensors, config.json and log.jsonl (loss and accuracy) into the output folder. The checkpoint is
    renewed at every evaluation; Ctrl-C keeps the last one.
    """
    require_extra("torch")
    from causalrn.export.cli.training_run import TrainingPlan, run_training

    plan = TrainingPlan.from_options(**{name: value for name, value in options.items() if name != "overwrite"})
    result = run_training(plan, output, overwrite=options["overwrite"])
    console().print(result.summary(), soft_wrap=True)
