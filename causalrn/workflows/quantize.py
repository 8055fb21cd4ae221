"""One quantization as `quantize` drives it: calibrate, rank, write, measure, and keep the result or not."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.files import check_replaceable, written_folder
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.quantization import WEIGHT_ONLY
from causalrn.calibration.evaluation import Baseline, measure_baseline, measure_quantized, time_steps
from causalrn.calibration.report import QuantizeReport
from causalrn.calibration.schemes import Scheme, check_scheme_fits, write_quantized
from causalrn.calibration.sensitivity import Sensitivity, rank_sensitivity, units_of
from causalrn.calibration.table import CalibrationTable, calibrate
from causalrn.cli.console import progress
from causalrn.errors import CalibrationError, InputError, NonFiniteError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.web.web_exporter import WebOptions
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.session import FloatArray, IntArray, Session
from causalrn.workflows.export import export_bundle
from causalrn.workflows.quantize_options import AUTOMATIC, Data, QuantizeOptions, choose_data

_C = TypeVar("_C", COptions, WebOptions)

_BLOCKS = ("blocks.", "head")
"""Names of units that --keep-blocks-fp32 means start with these."""


class _RejectedError(Exception):
    """Carries the report of a result that is not kept out of the folder's context."""

    def __init__(self, report: QuantizeReport) -> None:
        super().__init__("lost more than its budget")
        self.report = report


def quantize_bundle(
    path: Path,
    output: Path,
    options: QuantizeOptions,
    checkpoint: Path | None,
    write_reports: Callable[[QuantizeReport], object] = lambda report: None,
) -> QuantizeReport:
    """Quantize a bundle; an earlier bundle in `output` is replaced, unless the result loses too much.

    Args:
        checkpoint: the RUN of the bundle: distributions are compared with its float64 oracle.
        write_reports: called with the report before the bundle is put in its place: where that fails, none appears.

    Raises:
        InputError: the output is the source or something else, or options contradict the model.
        CalibrationError: nothing to calibrate on, or a table that does not fit.
    """
    check_replaceable(output, BUNDLE_MARKER)
    source = Bundle.open(path)
    if output.resolve() == path.resolve():
        raise InputError(f"{path} is the bundle itself: name another output")
    scheme = Scheme(options.scheme, options.form, options.pool8)
    check_scheme_fits(source, scheme)
    _check_kept_blocks(source, scheme, options)
    data = choose_data(source, options)
    exact, against = _exact_logits(source, checkpoint, data.tokens)
    with open_bundle(source) as session:
        baseline = _measured_baseline(source, session, data, exact)
        table = _calibrated(source, data, options)
        if table is not None and options.scheme == "w8a8":
            scheme = dataclasses.replace(scheme, limits=table.limits(options.method, options.percentile))
        ranked = {}
        for granularity in _granularities(options):
            with progress(f"sensitivity by {granularity}", len(units_of(source, scheme, granularity))) as advance:
                ranked[granularity] = rank_sensitivity(source, scheme, baseline, granularity, advance)
        context = _Context(source, session, baseline, data, options, against, table, ranked)
        try:
            with written_folder(output, BUNDLE_MARKER) as folder:
                report = _write_and_measure(folder, scheme, context)
                write_reports(report)
                if not report.passed:
                    raise _RejectedError(report)
        except _RejectedError as rejected:
            return rejected.report
    return report


def export_quantized(
    run: Path, output: Path, scheme: str, *, pool: str, capacity: int | None, opset: int
) -> QuantizeReport:
    """Export a RUN and quantize what comes of it; only the quantized bundle stays, if it is good enough.

    Raises:
        As :func:`causalrn.workflows.export.export_bundle` and :func:`quantize_bundle`.
    """
    check_replaceable(output, BUNDLE_MARKER)
    options = QuantizeOptions(scheme, "nbits" if scheme in WEIGHT_ONLY else None)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle(run, bundle, pool=pool, capacity=capacity, opset=opset)
        try:
            report = quantize_bundle(bundle, output, options, run)
        except CalibrationError as error:
            raise InputError(f"--scheme {scheme} of {run}: {error} of `quantize`, after an export") from None
    return dataclasses.replace(report, source=str(run))


def export_quantized_c(
    run: Path, output: Path, options: _C, export: Callable[[Path, Path, _C], Bundle]
) -> QuantizeReport:
    """Export a RUN as quantized C, source or WebAssembly, if it is good enough beside the same in float32.

    Args:
        export: :func:`causalrn.workflows.export.export_c_bundle`, or the same for the web.

    Raises:
        As `export`.
    """
    check_replaceable(output, BUNDLE_MARKER)
    limits = QuantizeOptions(options.scheme, pool8=options.pool8)
    with tempfile.TemporaryDirectory() as temporary:
        quantized = export(run, Path(temporary, "quantized"), options)  # first: it may be refused
        source = export(run, Path(temporary, "float32"), dataclasses.replace(options, scheme="float32", pool8=False))
        data = choose_data(source, limits)
        exact, against = _exact_logits(source, run, data.tokens)
        with open_bundle(source) as session:
            baseline = _measured_baseline(source, session, data, exact)
            try:
                report = _measure(quantized, _Context(source, session, baseline, data, limits, against, None, {}))
            except NonFiniteError as error:
                raise InputError(f"{options.scheme} does not suit {run}: {error}; use another scheme") from None
        if report.passed:
            with written_folder(output, BUNDLE_MARKER) as folder:
                shutil.copytree(quantized.path, folder, dirs_exist_ok=True)
    return dataclasses.replace(report, source=str(run))


def _measured_baseline(source: Bundle, session: Session, data: Data, exact: FloatArray | None) -> Baseline:
    with _examples_progress("float32", data) as advance:
        try:
            return measure_baseline(source, session, data.tokens, data.task, data.examples, exact, advance)
        except NonFiniteError as error:
            raise InputError(f"{source.path}: in float32, {error}: `verify` it first") from None


def _check_kept_blocks(source: Bundle, scheme: Scheme, options: QuantizeOptions) -> None:
    blocks = sum(unit.startswith(_BLOCKS) for unit in units_of(source, scheme, "block"))
    if options.keep != AUTOMATIC and 0 < blocks <= int(options.keep):
        raise InputError(f"--keep-blocks-fp32 {options.keep}: one of {blocks} (with the head) has to be quantized")


@dataclass(frozen=True)
class _Context:
    """What does not change between attempts; `ranked` by granularity."""

    source: Bundle
    session: Session
    baseline: Baseline
    data: Data
    options: QuantizeOptions
    against: str
    table: CalibrationTable | None
    ranked: Mapping[str, Sequence[Sensitivity]]


def _write_and_measure(folder: Path, scheme: Scheme, context: _Context) -> QuantizeReport:
    """Write with as many blocks in float32 as was asked for; or, automatically, with as few as the budget needs."""
    blocks = [entry for entry in context.ranked.get("block", ()) if entry.unit.startswith(_BLOCKS)]
    keep = context.options.keep
    problem = None
    for count in range(len(blocks)) if keep == AUTOMATIC else [int(keep)]:
        kept = frozenset(part for entry in blocks[:count] for part in entry.parts)
        try:
            report = _attempt(folder, dataclasses.replace(scheme, keep=kept), context)
        except NonFiniteError as error:
            problem = f"{scheme.name} does not suit {context.source.path}: {error}; use another scheme"
            continue
        if report.passed or count + 1 == len(blocks) or keep != AUTOMATIC:
            return report
    raise InputError(problem or f"{context.source.path}: it has no weights that could be quantized")


def _attempt(folder: Path, scheme: Scheme, context: _Context) -> QuantizeReport:
    options, table = context.options, context.table
    used = table.describe(options.method, options.percentile) if table is not None and scheme.limits else None
    return _measure(write_quantized(context.source, folder, scheme, used), context, _notes(scheme))


def _measure(bundle: Bundle, context: _Context, notes: Sequence[str] = ()) -> QuantizeReport:
    """Compare a quantized bundle with the one that it comes from."""
    options, quantization = context.options, bundle.manifest.quantization
    assert quantization is not None
    with open_bundle(bundle) as session, _examples_progress(quantization.describe(), context.data) as advance:
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


def _exact_logits(bundle: Bundle, run: Path | None, tokens: IntArray) -> tuple[FloatArray | None, str]:
    """The oracle's logits where there is a checkpoint, and what distributions are compared with."""
    if run is None:
        return None, f"the float32 bundle {bundle.path}"
    from causalrn.runtimes.torch_sessions import forward_with_streams
    from causalrn.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run)
    if checkpoint.sha256 != bundle.manifest.checkpoint_sha256:
        raise InputError(f"{bundle.path} was exported from other weights than those in {run} (SHA-256 differs)")
    logits, _ = forward_with_streams(checkpoint.model.oracle(), tokens)
    return logits, f"the float64 oracle of {run}"


def _calibrated(bundle: Bundle, data: Data, options: QuantizeOptions) -> CalibrationTable | None:
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
    return wanted if not options.keep or "block" in wanted else [*wanted, "block"]


@contextlib.contextmanager
def _examples_progress(words: str, data: Data) -> Iterator[Callable[..., Any]]:
    """Progress over examples, which are answered twice: teacher-forced, and free-running."""
    total = 0 if data.examples is None else 2 * len(data.examples)
    with progress(words, total) as advance:
        yield advance
