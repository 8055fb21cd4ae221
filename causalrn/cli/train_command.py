"""`causalrn-export train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from causalrn.cli.console import console, name_written, require_extra, write_json
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import (
    PATH,
    check_places,
    family_options,
    given_options,
    json_option,
    run_output_option,
    seed_option,
)
from causalrn.cli.verbosity import show_progress
from causalrn.errors import InputError
from causalrn.model.config import POSITIONS, READOUTS
from causalrn.model.operators.functions import KERNEL_CHOICES
from causalrn.training.tasks import TASKS
from causalrn.workflows.model_options import MODELS


@click.command(
    epilog="""\b
Examples:
  causalrn-export train --task copy --length 16 -o run
  causalrn-export train --length 64 --preset paper --until 0.995 -o run64
  causalrn-export train --model transformer --length 16 -o transformer
  causalrn-export train --task lookup --length 8 --key 2 -o lookup
  causalrn-export train --task text --text book.txt --readout linear -o book
  causalrn-export train --resume -o run64
  torchrun --nproc-per-node 2 --no-python causalrn-export train -o run"""
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    default="copy",
    show_default=True,
    help="copy: strings of one length; copy-mixed: of 1 to --length letters; lookup: what followed a k-gram; "
    "text: the next byte of a file.",
)
@click.option(
    "--length",
    type=Whole(1),
    help="Letters per string, or bytes per window of a text.  [default: 16; 128 for text]",
)
@click.option("--key", type=Whole(1), help="Letters of the k-gram to look up.  [default: 3]")
@click.option("--text", type=PATH, help="The file to learn; its last tenth is kept for evaluation.")
@click.option(
    "--model", type=click.Choice(MODELS), default="causalrn", show_default=True, help="A CausalRN, or a baseline."
)
@click.option(
    "--readout", type=click.Choice(READOUTS), default="exact", show_default=True, help="How positions read the past."
)
@family_options
@click.option(
    "--positions",
    type=click.Choice(POSITIONS),
    default="learned",
    show_default=True,
    help="none: for streams without end.",
)
@click.option(
    "--preset",
    type=click.Choice(["tiny", "small", "paper"]),
    default="tiny",
    show_default=True,
    help="tiny E=H=64, 4 blocks; small 128, 6; paper 192, 12, batch 320. A Transformer's H is 4 E.",
)
@click.option("--embedding", type=Whole(2), help="Embedding width E.  [default: the preset's]")
@click.option("--hidden", type=Whole(2), help="Hidden width H.  [default: E, or 4 E]")
@click.option("--blocks", type=Whole(1, 1000), help="Number of blocks.  [default: the preset's]")
@click.option("--steps", type=Whole(1), help="Optimizer steps.  [default: the preset's]")
@click.option(
    "--batch",
    type=Whole(1),
    help="Sequences per step, over all processes.  [default: the preset's]",
)
@click.option("--learning-rate", type=Real(), help="Peak learning rate.  [default: the preset's]")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    default="cosine",
    show_default=True,
    help="Learning rate after 50 steps of warm-up.",
)
@click.option(
    "--evaluate-every",
    type=Whole(1),
    help="Evaluate so often.  [default: an eighth of all, at least 25]",
)
@click.option("--accumulate", type=Whole(1), help="Take a step's sequences in so many parts.")
@click.option("--until", type=Real(), help="Stop early once this share is right, e.g. 0.995 of all strings.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16: matrix products in bfloat16.",
)
@click.option(
    "--threads",
    type=Whole(1, 1024),
    help="Of one operation on a CPU.  [default: the physical cores that are free]",
)
@click.option(
    "--kernel",
    type=click.Choice(KERNEL_CHOICES),
    default="auto",
    show_default=True,
    help="What computes sums over pairs: c, with this machine's compiler; triton, on NVIDIA GPUs; tiles, PyTorch; "
    "auto, the fastest.",
)
@click.option("--compile", is_flag=True, help="Run it through torch.compile; sums over pairs need kernel c or triton.")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier RUN in the output folder.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in the output folder.")
@run_output_option
@json_option
@click.pass_context
def command(
    context: click.Context, /, output: Path, overwrite: bool, resume: bool, json_path: Path | None, **options: Any
) -> None:
    """Train a CausalRN, or one of its baselines, in parallel mode on a task.

    Writes model.safetensors, config.json and log.jsonl (loss and accuracy) into the output folder. The checkpoint is
    renewed at every evaluation; Ctrl-C keeps the last one, and --resume goes on from it as if nothing had happened.
    Under torchrun the processes share every step's sequences; the weights are those of one process, up to rounding.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of PyTorch that wait leave the core to those of C
    require_extra("torch")
    from causalrn.training.memory import return_freed_memory
    from causalrn.workflows.train import resume_training, train

    return_freed_memory()
    check_places([json_path], [options["text"]], output)
    given = given_options(context)
    if resume:
        if overwrite or given - {"device", "json_path", "output", "resume", "threads"}:
            raise InputError(
                "--resume goes on with the options of the start: give -o, --device, --threads and --json only"
            )
        device = options["device"] if "device" in given else None
        result = resume_training(output, device, threads=options["threads"], progress=show_progress)
    else:
        for name in ("readout", "activation"):  # shown with their defaults, and refused for another model
            options[name] = options[name] if name in given else None
        result = train(output=output, overwrite=overwrite, **options, progress=show_progress)
    if result is not None:
        from causalrn.workflows.reports import TrainReport, report_values

        write_json(json_path, report_values(TrainReport.of(result)))
        console().print(result.summary())
        name_written(json_path)
