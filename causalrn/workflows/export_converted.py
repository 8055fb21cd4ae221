"""Export for runtimes of phones and boards: convert, record golden vectors, verify; only what passes is put in place.

What converts a cell is another package, which may get a number wrong without an error: the bundle is compared with the
float64 oracle, on logits, states and splits, before its folder gets its name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import CONVERSIONS, Conversion
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.errors import VerificationError
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.runtimes.opening import runtime_of
from causalrn.runtimes.parity.report import CONVERTED
from causalrn.runtimes.parity.results import Level
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.training.checkpoint import Checkpoint
from causalrn.workflows.export_targets import write_bundle
from causalrn.workflows.verify import verify

_Convert = Callable[[Checkpoint, Path, ConvertedOptions], Manifest]

CHECKED_LEVELS: tuple[Level, ...] = ("logits", "state", "split")
"""What a conversion has to pass before its bundle appears; `verify` checks the rest."""
_PYTORCH = checkpoint_runtimes()
_SHOWN_FAILURES = 3


def export_converted(
    run: Path,
    output: Path,
    options: ConvertedOptions,
    *,
    target: str,
    is_checked: bool = True,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Export a checkpoint for one of :data:`CONVERSIONS`, whole or not at all; an earlier bundle there is replaced.

    Args:
        is_checked: whether it is verified before it is put in place; not for what its caller verifies.

    Raises:
        InputError, CheckpointError: as :func:`causalrn.workflows.export_targets.export_bundle`.
        ConfigError: a backend, pool, scheme, model or capacity that the target does not have.
        RuntimeUnavailableError: the package that converts is not installed.
        VerificationError: the converted graphs do not compute what was trained; nothing was written.
    """
    row = CONVERSIONS[target]
    row.check_installed()  # before the work
    options.check_for(row)
    convert, what = partial(_load(row), options=options), f"graphs, {row.title}"
    check = partial(check_conversion, run=run, output=output, progress=progress) if is_checked else None
    return write_bundle(run, output, what, convert, overwrite, progress, check=check)


def _load(row: Conversion) -> Callable[..., Manifest]:
    module, _, attribute = row.convert.partition(":")
    convert: _Convert = getattr(importlib.import_module(module), attribute)
    return convert


def check_conversion(bundle: Bundle, *, run: Path, output: Path, progress: Progress = no_progress) -> None:
    """Compare a bundle with the oracle of the checkpoint that it comes from, within what rounding or its scheme allows.

    Args:
        output: where the bundle is to be put, for people.

    Raises:
        VerificationError: it does not pass.
    """
    runtime = runtime_of(bundle)
    report = verify(bundle.path, checkpoint=run, runtime=runtime, level=CHECKED_LEVELS, progress=progress).report
    if report.passed or (report.verdict == CONVERTED and any(one.subject not in _PYTORCH for one in report.results)):
        return
    failed = [f"{result.level}: {result.summary}" for result in report.results if not result.passed]
    reasons = [*report.problems, *failed] or [report.not_executed or "nothing was compared"]
    more = f" and {len(reasons) - _SHOWN_FAILURES} more" if len(reasons) > _SHOWN_FAILURES else ""
    raise VerificationError(
        f"nothing was written to {output}: in {runtime} the converted graphs do not compute what was trained "
        f"({'; '.join(reasons[:_SHOWN_FAILURES])}{more}): choose another `backend` or `pool`, or `target` onnx"
    )
