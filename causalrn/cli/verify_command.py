"""`causalrn-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.bundle.targets import runtime_words
from causalrn.cli.console import EXIT_CHECK_FAILED, EXIT_NOT_EXECUTED, console, name_written, require_extra
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import (
    PATH,
    check_places,
    checked_certificate,
    checked_place,
    json_option,
    runtime_options,
    seed_option,
)
from causalrn.cli.verbosity import show_progress
from causalrn.runtimes.parity.report import CONVERTED, NOT_EXECUTED
from causalrn.runtimes.parity.results import LEVELS
from causalrn.training.tasks import TASKS

if TYPE_CHECKING:
    from causalrn.workflows.verify_result import VerifyResult


@click.command(
    epilog="""\b
Examples:
  causalrn-export verify bundle --checkpoint run    against the float64 oracle
  causalrn-export verify bundle                     on a device, without torch
  causalrn-export verify bundle --checkpoint run --html report.html
  causalrn-export verify bundle --checkpoint run --certificate cert.json
  causalrn-export verify bundle --level drift --drift-steps 100000
  causalrn-export verify bundle --checkpoint run --max-kl 0.01

Exit code 1 if anything is out of tolerance, 3 if engines are compiled and cannot run here."""
)
@click.argument("bundle", type=PATH)
@click.option("--checkpoint", type=PATH, help="The RUN that it was exported from: compare with the oracle itself.")
@click.option(
    "--level",
    multiple=True,
    type=click.Choice(LEVELS),
    metavar="LEVEL",
    help=f"Check only this; may be repeated: {', '.join(LEVELS)}.  [default: all]",
)
@click.option(
    "--runtime",
    multiple=True,
    help=f"{runtime_words()}; may be repeated.  [default: PyTorch's, and the bundle's default]",
)
@click.option("--task", type=click.Choice(list(TASKS)), help="Insist on this task.  [default: the model's]")
@click.option("--text", type=PATH, help="Measure a text model's accuracy on the last tenth of this file.")
@click.option(
    "--samples",
    type=Whole(1),
    default=1000,
    show_default=True,
    help="Sequences to measure accuracy on.",
)
@click.option("--steps", type=Whole(2), help="Tokens per sequence.  [default: the capacity, at most 256]")
@click.option(
    "--drift-steps",
    type=Whole(2),
    help="Tokens of the long run, all of them.  [default: the capacity, at most 4,096, and what time allows]",
)
@click.option("--load-inputs", type=PATH, help="Compare on these token ids, .npy [B, T].")
@seed_option
@runtime_options
@click.option(
    "--time-budget",
    type=Real(1),
    default=300,
    show_default=True,
    help="Seconds: task and drift stop early where it gets short, and what is not reached is named.",
)
@click.option("--fail-fast", is_flag=True, help="Stop after the first level at which anything fails.")
@click.option("--min-accuracy", type=Real(0, 100), help="Fail below this accuracy on the task, in percent.")
@click.option("--max-kl", type=Real(0), help="Budget for a quantized bundle: KL divergence, in nats.")
@click.option(
    "--max-argmax-changes",
    type=Real(0, 100),
    help="Budget for a quantized bundle: positions whose most likely token changes, in percent; ties (5 points of "
    "probability) are not counted.",
)
@click.option("--max-accuracy-drop", type=Real(0, 100), help="Budget for a quantized bundle: percentage points lost.")
@json_option
@click.option("--html", type=PATH, callback=checked_place, help="Also write the report as one page to this file.")
@click.option("--certificate", type=PATH, callback=checked_certificate, help="If all is well, certify it in this file.")
@click.option("--save-outputs", type=PATH, callback=checked_place, help="Also write tokens and all logits, .npz.")
@click.pass_context
def command(context: click.Context, /, bundle: Path, checkpoint: Path | None, **options: Any) -> None:
    """Test that a bundle gives the outputs of the trained model.

    With --checkpoint, every runtime runs the same sequences as the float64 parallel form (the oracle). Without it, the
    bundle is checked against the oracle's golden vectors that it carries. Levels: logits; state, every state tensor,
    also from reference states fed in; split, random chunks; layer, the values between blocks; calls, a walk over
    everything that a session offers; drift over a long run; task, accuracy before and after; determinism, what is equal
    bit for bit; kernels, every graph, instruction set and engine that the bundle has, by itself, and its programs;
    guards, what has to be refused. What fails is traced to its first step, block and tensor, and to the side that is
    wrong; of calls, to the fewest that fail. How much rounding is allowed is estimated from the weights:
    docs/parity.md.

    A quantized bundle is judged by the budget of its scheme: by what its distributions and its accuracy lose. Options
    set other limits; for a float32 bundle they replace the judgement by rounding.
    """
    from causalrn.cli.verify_report import write_and_print
    from causalrn.workflows.verify import verify

    places = {name: options.pop(name) for name in ("json_path", "html", "save_outputs", "certificate")}
    written = [*places.values(), options["runtime_cache"]]
    check_places(written, [options["load_inputs"], options["text"]])
    if checkpoint is not None:
        require_extra("torch")
    verified = verify(bundle, checkpoint=checkpoint, progress=show_progress, **options)
    write_and_print(verified, places["json_path"], places["html"], places["save_outputs"])
    if places["certificate"] is not None:
        _certify(verified, places["certificate"])
    if not verified.passed:
        context.exit(EXIT_NOT_EXECUTED if verified.verdict in (NOT_EXECUTED, CONVERTED) else EXIT_CHECK_FAILED)


def _certify(verified: VerifyResult, path: Path) -> None:
    """Write a certificate, or tell why there is none."""
    why = verified.report.why_not_certified
    if why:
        console().print(f"{path} was not written: {why}")
    else:
        verified.certify(path)
        name_written(path)
