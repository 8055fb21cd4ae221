"""`causalrn-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.cli.console import EXIT_CHECK_FAILED, EXIT_NOT_EXECUTED, require_extra
from causalrn.cli.options import (
    PATH,
    FiniteRange,
    check_places,
    checked_certificate,
    checked_place,
    json_option,
    pop_session_options,
    runtime_options,
    seed_option,
)
from causalrn.errors import InputError
from causalrn.runtimes.parity.results import LEVELS
from causalrn.training.tasks import TASKS

if TYPE_CHECKING:
    from causalrn.workflows.verify_options import VerifyOptions

_MOST = 1 << 31


@click.command(
    epilog="""\b
Examples:
  causalrn-export verify bundle --checkpoint run             against the float64 oracle
  causalrn-export verify bundle                              on a device, without torch
  causalrn-export verify bundle --checkpoint run --html report.html --certificate certificate.json
  causalrn-export verify bundle --checkpoint run --level drift --drift-steps 100000
  causalrn-export verify bundle --checkpoint run --max-kl 0.01 --max-accuracy-drop 0.5
Exit code 1 if anything is out of tolerance, 3 if engines are compiled and cannot run here."""
)
@click.argument("bundle", type=PATH)
@click.option("--checkpoint", type=PATH, help="The RUN that it was exported from: compare with the oracle itself.")
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice(LEVELS),
    help="Check only this; may be repeated.  [default: all]",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="parallel, recurrent, onnxruntime, tensorrt, native or node; may be repeated.  [default: what can run here]",
)
@click.option("--task", type=click.Choice(list(TASKS)), help="Insist on this task.  [default: the model's]")
@click.option("--text", type=PATH, help="Measure a text model's accuracy on the last tenth of this file.")
@click.option(
    "--samples",
    type=click.IntRange(1, _MOST),
    default=1000,
    show_default=True,
    help="Sequences to measure accuracy on.",
)
@click.option(
    "--steps", type=click.IntRange(2, _MOST), help="Tokens per sequence.  [default: the capacity, at most 256]"
)
@click.option(
    "--drift-steps",
    type=click.IntRange(2, _MOST),
    help="Tokens of the long run, all of them.  [default: the capacity, at most 4,096, and what time allows]",
)
@click.option("--load-inputs", "inputs", type=PATH, help="Compare on these token ids, .npy [B, T].")
@seed_option
@runtime_options
@click.option(
    "--time-budget",
    "seconds",
    type=FiniteRange(min=1),
    default=300,
    show_default=True,
    help="Seconds: task and drift stop early where it gets short, and what is not reached is named.",
)
@click.option("--fail-fast", is_flag=True, help="Stop after the first level at which anything fails.")
@click.option("--min-accuracy", type=FiniteRange(0, 100), help="Fail below this accuracy on the task, in percent.")
@click.option("--max-kl", type=FiniteRange(min=0), help="Budget for a quantized form: KL divergence, in nats.")
@click.option(
    "--max-argmax-changes",
    type=FiniteRange(0, 100),
    help="Budget for a quantized form: positions whose most likely token changes, in percent; ties (5 points of "
    "probability) are not counted.",
)
@click.option(
    "--max-accuracy-drop", type=FiniteRange(0, 100), help="Budget for a quantized form: percentage points lost."
)
@json_option
@click.option("--html", type=PATH, callback=checked_place, help="Also write the report as one page to this file.")
@click.option("--certificate", type=PATH, callback=checked_certificate, help="If all is well, certify it in this file.")
@click.option("--save-outputs", type=PATH, callback=checked_place, help="Also write tokens and all logits, .npz.")
@click.pass_context
def command(context: click.Context, /, bundle: Path, checkpoint: Path | None, **options: Any) -> None:
    """Prove that a bundle says what was trained.

    With --checkpoint, every form runs the same sequences as the float64 parallel form (the oracle). Without it, the
    bundle is checked against the oracle's golden vectors that it carries. Levels: logits; state, every state tensor,
    also from exact states fed in; split, random chunks; layer, the values between blocks; drift over a long run; task,
    accuracy before and after; determinism, what is equal bit for bit. What fails is traced to its first step, block and
    tensor, and to the side that is wrong. How much rounding is allowed follows from the weights: docs/parity.md.

    A quantized bundle is judged by the budget of its scheme: by what its distributions and its accuracy lose. Options
    set other limits; for a float32 bundle they replace the judgement by rounding.
    """
    from causalrn.cli.verify_files import certify, write_reports
    from causalrn.cli.verify_report import print_report
    from causalrn.runtimes.parity.report import NOT_EXECUTED
    from causalrn.workflows.verify import verify_with_checkpoint, verify_with_golden

    places = {name: options.pop(name) for name in ("json_path", "html", "save_outputs")}
    certificate = options.pop("certificate")
    written = [*places.values(), certificate, options["runtime_cache"]]
    check_places(written, [options["inputs"], options["text"]])
    if places["html"] is not None:
        require_extra("jinja2")
    _check_combinations(checkpoint, options)
    asked = _options(options)
    if checkpoint is None:
        verified = verify_with_golden(bundle, asked)
    else:
        require_extra("torch")
        verified = verify_with_checkpoint(bundle, checkpoint, asked)
    write_reports(verified, **places)
    print_report(verified.report)
    if certificate is not None:
        certify(certificate, verified.report)
    if not verified.report.passed:
        not_executed = verified.report.verdict == NOT_EXECUTED
        context.exit(EXIT_NOT_EXECUTED if not_executed else EXIT_CHECK_FAILED)


def _check_combinations(checkpoint: Path | None, options: dict[str, Any]) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: one that needs a checkpoint, or a level that is not checked.
    """
    needs = {"steps": "--steps", "drift_steps": "--drift-steps", "inputs": "--load-inputs"}
    for name, option in (needs | {"max_accuracy_drop": "--max-accuracy-drop"}).items():
        if checkpoint is None and options[name] is not None:
            why = "before" if name == "max_accuracy_drop" else "other tokens than the golden vectors in the bundle"
            raise InputError(f"{option} needs --checkpoint: there is nothing to compare {why} with")
    if options["steps"] is not None and options["inputs"] is not None:
        raise InputError("--steps and --load-inputs contradict each other: the file says how many tokens there are")
    levels = options["levels"] or LEVELS
    for level, names in (("task", ("min_accuracy", "max_accuracy_drop", "text")), ("drift", ("drift_steps",))):
        for name in names:
            if level not in levels and options[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} and --level contradict each other: the level {level} is not checked")


def _options(given: dict[str, Any]) -> VerifyOptions:
    """The command's options as an object."""
    from causalrn.workflows.verify_options import VerifyOptions

    asked = dict(given)
    limits = {
        "kl_divergence": asked.pop("max_kl"),
        "argmax_changes": _share(asked.pop("max_argmax_changes")),
        "accuracy_drop": _share(asked.pop("max_accuracy_drop")),
    }
    levels = asked.pop("levels") or LEVELS
    return VerifyOptions(
        levels=tuple(level for level in LEVELS if level in levels),
        limits={name: limit for name, limit in limits.items() if limit is not None},
        least_accuracy=_share(asked.pop("min_accuracy")),
        session=pop_session_options(asked),
        **asked,
    )


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
