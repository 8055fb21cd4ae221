"""`causalrn-export demo`."""

from __future__ import annotations

import string
import sys
from pathlib import Path

import click

from causalrn.errors import InputError
from causalrn.export.cli.console import EXIT_CHECK_FAILED, console, require_extra
from causalrn.export.cli.options import PATH, seed_option

_GOAL = 0.995


@click.command(
    epilog="""\b
Example:
  causalrn-export demo -o demo"""
)
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="Folder for run and bundle.")
@click.option("--length", type=click.IntRange(min=2), default=16, show_default=True, help="Letters per string.")
@seed_option
@click.pass_context
def command(context: click.Context, output: Path, length: int, seed: int) -> None:
    """Train, export, verify and generate in one go, in about a minute.

    Trains a small exact CausalRN to copy strings, exports its cell to ONNX, proves that all forms agree with the
    float64 oracle, and lets the exported model copy a prompt that it has never seen, token by token.
    """
    for package in ("torch", "onnx", "onnxscript"):
        require_extra(package)
    from causalrn.export.cli.export_run import export_bundle
    from causalrn.export.cli.generate_run import generate_text
    from causalrn.export.cli.training_run import TrainingPlan, run_training
    from causalrn.export.cli.verify_report import print_report
    from causalrn.export.cli.verify_run import VerifyOptions, verify_with_checkpoint
    from causalrn.manifest import is_bundle
    from causalrn.run_folder import is_run
    from causalrn.runtimes import open_session
    from causalrn.runtimes.generation import GenerationOptions
    from causalrn.tasks import random_source

    run, bundle = output / "run", output / "bundle"
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: name a folder for the run and the bundle")
    if is_run(output) or is_bundle(output):
        raise InputError(f"{output} holds a RUN or bundle: name another folder")
    out = console()

    out.print(f"1. train an exact CausalRN to copy strings of {length} letters", style="bold")
    trained = run_training(TrainingPlan.from_options(length=length, seed=seed), run, overwrite=True)
    out.print(trained.summary() + "\n", soft_wrap=True)

    out.print("2. export its recurrent cell to ONNX", style="bold")
    written = export_bundle(run, bundle, pool="growing", capacity=None, opset=23)
    out.print(f"wrote {bundle}: {', '.join(written.manifest.files)}\n", soft_wrap=True)

    out.print("3. verify every form against the float64 oracle", style="bold")
    report = verify_with_checkpoint(bundle, run, VerifyOptions(seed=seed))
    print_report(report)

    prompt = "".join(random_source("demo", seed).choice(list(string.ascii_lowercase), length))
    out.print("\n4. generate: onnxruntime copies a string, one token at a time", style="bold")
    out.print(f"prompt {prompt}")
    out.print("copy   ", end="")
    with open_session(bundle) as session:
        generate_text(session, (prompt,), GenerationOptions(), pause=0.05)
    program = Path(sys.argv[0])
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else Path(program.name)
    out.print(f"\nagain: {program} run {bundle} --prompt {prompt}", soft_wrap=True)
    if trained.free_running.accuracy < _GOAL:
        out.print(f"the model copies fewer than {100 * _GOAL} % of the strings: train longer with `train --steps`")
    if not report.passed or trained.free_running.accuracy < _GOAL:
        context.exit(EXIT_CHECK_FAILED)
