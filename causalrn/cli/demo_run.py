"""The demonstration: train, export, verify, generate, each shown as it happens."""

from __future__ import annotations

import shutil
import string
import sys
from pathlib import Path

from rich.console import Console

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.disk.folders import check_renewable
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.cli.console import console
from causalrn.cli.generate_run import generate_text
from causalrn.cli.options import tell_what_goes
from causalrn.cli.verbosity import show_progress
from causalrn.cli.verify_report import print_report
from causalrn.errors import InputError
from causalrn.runtimes import open_session
from causalrn.runtimes.generation_options import GenerationOptions
from causalrn.training.checkpoint_folder import CHECKPOINT_MARKER, is_checkpoint
from causalrn.training.tasks import random_source
from causalrn.workflows.export import export
from causalrn.workflows.train import train
from causalrn.workflows.verify import verify

_GOAL = 0.995


def demonstrate(output: Path, length: int, seed: int, overwrite: bool = False) -> bool:
    """Run the main job from end to end; the RUN and the bundle stay in `output`.

    Args:
        overwrite: they may take the place of earlier ones.

    Returns:
        Whether all forms agree and the model copies at least 99.5 % of the strings.

    Raises:
        InputError: `output` is a file, a RUN or a bundle, or holds what has to stay.
    """
    run, bundle, out = output / "run", output / "bundle", console()
    _check_places(output, run, bundle, overwrite)
    out.print(f"1. train an exact CausalRN to copy strings of {length} letters", style="bold")
    trained = train(task="copy", length=length, seed=seed, output=run, overwrite=True, progress=show_progress)
    if trained is None:
        raise InputError("the demonstration runs in one process: start it without torchrun")
    out.print(trained.summary() + "\n")
    out.print("2. export its recurrent cell to ONNX", style="bold")
    written = export(run, output=bundle, overwrite=overwrite, progress=show_progress).bundle
    out.print(f"wrote {bundle}: {', '.join(written.manifest.files)}\n")
    out.print("3. verify every runtime against the float64 oracle", style="bold")
    report = verify(bundle, checkpoint=run, seed=seed, progress=show_progress).report
    print_report(report)
    prompt = "".join(random_source("demo", seed).choice(list(string.ascii_lowercase), length))
    _show_generation(out, bundle, prompt)
    copies = trained.accuracy >= _GOAL
    if not copies:
        out.print(f"the model copies fewer than {100 * _GOAL} % of the strings: train longer, with `train --steps`")
    return report.passed and copies


def _check_places(output: Path, run: Path, bundle: Path, overwrite: bool) -> None:
    """Refuse, before a minute of work, what could not be written at its end."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: name a folder for the run and the bundle")
    if is_checkpoint(output) or is_bundle(output):
        raise InputError(f"{output} holds a RUN or bundle: name another folder")
    check_renewable(run, CHECKPOINT_MARKER)
    tell_what_goes(bundle, BUNDLE_MARKER, overwrite)
    for folder in (run, bundle):
        if not overwrite and (is_checkpoint(folder) or is_bundle(folder)):
            raise InputError(f"{folder} is there already: name another output, or add `overwrite`")


def _show_generation(out: Console, bundle: Path, prompt: str) -> None:
    out.print("\n4. generate: onnxruntime copies a string, one token at a time", style="bold")
    out.print(f"prompt {prompt}")
    out.print("copy   ", end="")
    with open_session(bundle) as session:
        generate_text(session, (prompt,), GenerationOptions(), pause=0.05)
    program = "causalrn-export" if shutil.which("causalrn-export") else sys.argv[0]
    out.print(f"\nagain: {program} run {bundle} --prompt {prompt}")
