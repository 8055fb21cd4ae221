"""One quantization in progress: calibrate, rank, write, measure, and keep the result or not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.folders import check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.calibration.evaluation import Baseline, measure_baseline, measure_quantized, time_steps
from causalrn.calibration.report import QuantizeReport
from causalrn.calibration.schemes import Scheme, check_scheme_fits, write_quantized
from causalrn.calibration.sensitivity import Sensitivity, rank_sensitivity, units_of
from causalrn.calibration.table import CalibrationTable, calibrate
from causalrn.errors import BudgetExceededError, InputError, NonFiniteError
from causalrn.runtimes.opening import open_or_evaluate
from causalrn.runtimes.progress import Advance, Progress, no_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.workflows.quantize_options import AUTOMATIC, Data, QuantizeOptions, choose_data
from causalrn.workflows.quantize_result import OnReport, QuantizeResult, ignore_report

_BLOCKS = ("blocks.", "head")
"""Names of units that keep_blocks_fp32 means start with these."""


def quantize_bundle(
    path: Path,
    output: Path,
    options: QuantizeOptions,
    checkpoint: Path | None,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    on_report: OnReport = ignore_report,
) -> QuantizeResult:
    """:func:`quantize` with its options as an object.

    Raises:
        BudgetExceededError, InputError, CalibrationError: as :func:`quantize`.
    """
    check_replaceable(output, BUNDLE_MARKER, overwrite)
    source = Bundle.open(path)
    if os.path.realpath(output) == os.path.realpath(path):
        raise InputError(f"{path} is the bundle itself: name another output")
    scheme = Scheme(options.scheme, options.form, options.pool_dtype)
    check_scheme_fits(source, scheme)
    _check_kept_blocks(source, scheme, options)
    data = choose_data(source, options)
    reference, against = reference_logits(source, checkpoint, data.tokens)
    with open_or_evaluate(source) as session:
        baseline = measure_source(source, session, data, reference, progress)
        table = _calibrated(source, data, options, progress)
        if table is not None and options.scheme == "w8a8":
            scheme = dataclasses.replace(scheme, limits=table.limits(options.method, options.percentile))
        ranked = _ranked(source, scheme, baseline, options, progress)
        context = MeasureContext(source, session, baseline, data, options, against, table, ranked, progress)
        with written_folder(output, BUNDLE_MARKER, overwrite) as folder:
            report, bundle = _write_and_measure(folder, scheme, context)
            on_report(report)
            check_budget(report, output)
    return QuantizeResult(dataclasses.replace(bundle, path=output), report)


def _ranked(
    source: Bundle, scheme: Scheme, baseline: Baseline, options: QuantizeOptions, progress: Progress
) -> dict[str, Sequence[Sensitivity]]:
    """Sensitivities by granularity."""
    ranked: dict[str, Sequence[Sensitivity]] = {}
    for granularity in _granularities(options):
        with progress(f"sensitivity by {granularity}", len(units_of(source, scheme, granularity))) as advance:
            ranked[granularity] = rank_sensitivity(source, scheme, baseline, granularity, advance)
    return ranked


def check_budget(report: QuantizeReport, output: Path) -> None:
    """Leave the context of a folder that is not to be kept.

    Raises:
        BudgetExceededError: the report did not pass.
    """
    if not report.passed:
        raise BudgetExceededError(f"nothing was written to {output}: {'; '.join(report.faults)}", report)


def measure_source(
    source: Bundle, session: Session, data: Data, reference: FloatArray | None, progress: Progress
) -> Baseline:
    with _examples_progress(progress, "float32", data) as advance:
        try:
            return measure_baseline(source, session, data.tokens, data.task, data.examples, reference, advance)
        except NonFiniteError as error:
            raise InputError(f"{source.path}: in float32, {error}: `verify` it first") from None


def _check_kept_blocks(source: Bundle, scheme: Scheme, options: QuantizeOptions) -> None:
    blocks = sum(unit.startswith(_BLOCKS) for unit in units_of(source, scheme, "block"))
    if options.keep_blocks_fp32 != AUTOMATIC and 0 < blocks <= int(options.keep_blocks_fp32):
        raise InputError(
            f"`keep_blocks_fp32` {options.keep_blocks_fp32}: one of {blocks} (with the head) has to be quantized"
        )


@dataclass(frozen=True)
class MeasureContext:
    """What does not change between attempts; `ranked` by granularity."""

    source: Bundle
    session: Session
    baseline: Baseline
    data: Data
    options: QuantizeOptions
    against: str
    table: CalibrationTable | None
    ranked: Mapping[str, Sequence[Sensitivity]]
    progress: Progress


def _write_and_measure(folder: Path, scheme: Scheme, context: MeasureContext) -> tuple[QuantizeReport, Bundle]:
    """Write with as many blocks in float32 as was asked for; or, automatically, with as few as the budget needs."""
    blocks = [entry for entry in context.ranked.get("block", ()) if entry.unit.startswith(_BLOCKS)]
    keep = context.options.keep_blocks_fp32
    problem = None
    for count in range(len(blocks)) if keep == AUTOMATIC else [int(keep)]:
        kept = frozenset(part for entry in blocks[:count] for part in entry.parts)
        try:
            report, bundle = _attempt(folder, dataclasses.replace(scheme, keep=kept), context)
        except NonFiniteError as error:
            problem = f"{scheme.label} does not suit {context.source.path}: {error}; use another scheme"
            continue
        if report.passed or count + 1 == len(blocks) or keep != AUTOMATIC:
            return report, bundle
    raise InputError(problem or f"{context.source.path}: it has no weights that could be quantized")


def _attempt(folder: Path, scheme: Scheme, context: MeasureContext) -> tuple[QuantizeReport, Bundle]:
    options, table = context.options, context.table
    used = table.describe(options.method, options.percentile) if table is not None and scheme.limits else None
    bundle = write_quantized(context.source, folder, scheme, used)
    return measure_result(bundle, context, _notes(scheme)), bundle


def measure_result(bundle: Bundle, context: MeasureContext, notes: Sequence[str] = ()) -> QuantizeReport:
    """Compare a quantized bundle with the one that it comes from."""
    options, quantization = context.options, bundle.manifest.quantization
    assert quantization is not None
    with (
        open_or_evaluate(bundle) as session,
        _examples_progress(context.progress, quantization.describe(), context.data) as advance,
    ):
        after = measure_quantized(bundle, session, context.baseline, advance)
        times = time_steps(context.session, session, context.data.tokens)
    shown = next(iter(_granularities(options)), "block")
    return QuantizeReport(
        source=str(context.source.path),
        source_sha256=context.source.sha256,
        quantization=quantization,
        before=context.baseline.measured,
        after=after,
        times=times,
        against=context.against,
        measured_on=context.data.measured_on,
        budget=options.budget,
        sensitivities=context.ranked.get(shown, ()),
        granularity=shown,
        table=context.table,
        notes=(*context.data.notes, *notes),
    )


def _notes(scheme: Scheme) -> list[str]:
    """What the figures of a scheme do not show."""
    if scheme.form == "qdq":
        return ["onnxruntime rounds activations to int8, too, when it runs these products; TensorRT does not"]
    if scheme.name == "w8a8-dynamic":
        return ["a call has one scale for all its tokens: steps, prefill and batches differ within the scheme's error"]
    return []


def reference_logits(bundle: Bundle, run: Path | None, tokens: IntArray) -> tuple[FloatArray | None, str]:
    """The oracle's logits where there is a checkpoint, and what distributions are compared with."""
    if run is None:
        return None, f"the float32 bundle {bundle.path}"
    from causalrn.runtimes.parity.reference_cache import KeptArrays
    from causalrn.runtimes.torch_sessions import forward_with_streams
    from causalrn.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run)
    if checkpoint.sha256 != bundle.manifest.checkpoint_sha256:
        raise InputError(f"{bundle.path} was exported from other weights than those in {run} (SHA-256 differs)")
    kept = KeptArrays("logits", checkpoint.sha256, checkpoint.card, tokens)
    found = kept.found_or_made(lambda: {"logits": forward_with_streams(checkpoint.model.oracle(), tokens)[0]})
    return found["logits"], f"the float64 oracle of {run}"


def _calibrated(bundle: Bundle, data: Data, options: QuantizeOptions, progress: Progress) -> CalibrationTable | None:
    if data.table is not None or data.prompts is None:
        return data.table
    with progress("calibration", data.prompts.batches * data.prompts.tokens.shape[1]) as advance:
        table = calibrate(bundle, data.prompts, options.seed, advance)
    if options.save_calibration is not None:
        table.save(options.save_calibration)
    return table


def _granularities(options: QuantizeOptions) -> list[str]:
    """At which sensitivity is measured: first what is shown, and by block where some blocks are to be kept."""
    wanted = [] if options.sensitivity is None else [options.sensitivity]
    return wanted if not options.keep_blocks_fp32 or "block" in wanted else [*wanted, "block"]


@contextlib.contextmanager
def _examples_progress(progress: Progress, words: str, data: Data) -> Iterator[Advance]:
    """Progress over examples, which are answered twice: teacher-forced, and free-running."""
    total = 0 if data.examples is None else 2 * len(data.examples)
    with progress(words, total) as advance:
        yield advance
