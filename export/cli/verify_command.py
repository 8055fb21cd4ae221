"""`causalrn-export verify`."""

from __future__ import annotations

from pathlib import Path

import click

from causalrn.errors import InputError
from causalrn.export.cli.console import EXIT_CHECK_FAILED, require_extra, write_json
from causalrn.export.cli.options import PATH, json_option, runtime_options, seed_option
from causalrn.tasks import TASKS


@click.command(
    epilog="""\b
Examples:
  causalrn-export verify bundle --checkpoint run     against the float64 oracle
  causalrn-export verify bundle                      on a device, without torch
Exit code 1 if anything is out of tolerance."""
)
@click.argument("bundle", type=PATH)
@click.option("--checkpoint", type=PATH, help="The RUN that it was exported from: compare with the oracle itself.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="parallel, recurrent or onnxruntime; may be repeated.  [default: all that this call can run]",
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    help="Insist on this task.  [default: the model's]",
)
@click.option("--text", type=PATH, help="Measure a text model's accuracy on the last tenth of this file.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=1000, show_default=True, help="Sequences to measure accuracy on."
)
@click.option("--steps", type=click.IntRange(min=2), help="Tokens per sequence.  [default: the capacity, at most 256]")
@seed_option
@runtime_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    checkpoint: Path | None,
    runtimes: tuple[str, ...],
    task: str | None,
    text: Path | None,
    samples: int,
    steps: int | None,
    seed: int,
    provider: str,
    threads: int,
    json_path: Path | None,
) -> None:
    """Prove that a bundle says what was trained.

    With --checkpoint, every form runs the same sequences as the float64 parallel form (the oracle): parallel and
    recurrent in PyTorch, the bundle step by step, and by prefill and steps. Without it, the bundle is checked against
    the oracle's golden vectors that it carries.
    """
    from causalrn.export.cli.verify_report import print_report
    from causalrn.export.cli.verify_run import VerifyOptions, verify_with_checkpoint, verify_with_golden
    from causalrn.runtimes import SessionOptions

    options = VerifyOptions(runtimes, samples, steps, seed, task, text, SessionOptions(provider, threads))
    if checkpoint is None:
        if steps is not None:
            raise InputError("--steps needs --checkpoint: the golden vectors in the bundle have their own length")
        report = verify_with_golden(bundle, options)
    else:
        require_extra("torch")
        report = verify_with_checkpoint(bundle, checkpoint, options)
    print_report(report)
    write_json(json_path, report.to_json())
    if not report.passed:
        context.exit(EXIT_CHECK_FAILED)
