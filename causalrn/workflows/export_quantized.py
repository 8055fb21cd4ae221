"""Export and quantization in one go: only the quantized bundle stays, if it is good enough."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.folders import check_replaceable, written_folder
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.quantization import WEIGHT_ONLY
from causalrn.calibration.report import QuantizeReport
from causalrn.errors import BudgetExceededError, CalibrationError, InputError, NonFiniteError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.export.onnx_exporter import OnnxOptions
from causalrn.export.web.web_exporter import WebOptions
from causalrn.runtimes.opening import open_or_evaluate, runtime_of
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.workflows.export_targets import export_bundle
from causalrn.workflows.quantize_bundle import (
    MeasureContext,
    check_budget,
    measure_result,
    measure_source,
    quantize_bundle,
    reference_logits,
)
from causalrn.workflows.quantize_options import Data, QuantizeOptions, choose_data
from causalrn.workflows.quantize_result import QuantizeResult

_EVALUATED_EXAMPLES = 20
_C = TypeVar("_C", COptions, WebOptions, ConvertedOptions)


def export_quantized(
    run: Path,
    output: Path,
    scheme: str,
    *,
    form: str = "nbits",
    overwrite: bool = False,
    progress: Progress = no_progress,
    **options: Unpack[OnnxOptions],
) -> QuantizeResult:
    """Export a checkpoint and quantize what comes of it; only the quantized bundle stays, if it is good enough.

    Args:
        form: of schemes that quantize weights only, as in :func:`quantize`.
        options: of the export: :class:`causalrn.export.onnx_exporter.OnnxOptions`.

    Raises:
        As :func:`causalrn.workflows.export_targets.export_bundle` and :func:`quantize`.
    """
    check_replaceable(output, BUNDLE_MARKER, overwrite)
    wanted = QuantizeOptions(scheme, form if scheme in WEIGHT_ONLY else None)
    with temporary_folder() as folder:
        bundle = folder / "bundle"
        export_bundle(run, bundle, progress=progress, **options)
        try:
            result = quantize_bundle(bundle, output, wanted, run, overwrite=overwrite, progress=progress)
        except CalibrationError as error:
            raise InputError(f"`scheme` {scheme} of {run}: {error} of `quantize`, after an export") from None
        except BudgetExceededError as error:
            raise _of_run(error, run) from None
    return dataclasses.replace(result, report=dataclasses.replace(result.report, source=str(run)))


def _for_runtime(source: Bundle, data: Data) -> Data:
    """Fewer sequences of the task where graphs are evaluated because their runtime cannot run: seconds for each."""
    with open_or_evaluate(source) as session:
        if session.runtime == runtime_of(source) or data.examples is None:
            return data
    note = f"{runtime_of(source)} does not run here: accuracy was measured on {_EVALUATED_EXAMPLES} sequences only"
    examples = data.examples.rows(slice(_EVALUATED_EXAMPLES))
    return dataclasses.replace(data, examples=examples, notes=(*data.notes, note))


def _of_run(error: BudgetExceededError, run: Path) -> BudgetExceededError:
    """The same error about the checkpoint folder that was to be exported, not about a bundle in between."""
    assert isinstance(error.report, QuantizeReport)
    return BudgetExceededError(str(error), dataclasses.replace(error.report, source=str(run)))


def export_quantized_c(
    run: Path,
    output: Path,
    options: _C,
    export: Callable[..., Bundle],
    *,
    check: Callable[[Bundle], object] | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> QuantizeResult:
    """Export a checkpoint as quantized C or converted graphs, if that is good enough beside the same in float32.

    Args:
        export: :func:`causalrn.workflows.export_targets.export_c_bundle`, or the same for another target.
        check: is called with the bundle before it is put in place: where that fails, none appears.

    Raises:
        As `export`, `check` and :func:`quantize`.
    """
    check_replaceable(output, BUNDLE_MARKER, overwrite)
    limits, single = QuantizeOptions(options.scheme, pool_dtype=options.pool_dtype), partial(export, progress=progress)
    with temporary_folder() as temporary:
        quantized = single(run, temporary / "quantized", options)  # first: it may be refused
        assert quantized.manifest.quantization is not None
        source = single(run, temporary / "float32", options.in_float32)
        data = _for_runtime(source, choose_data(source, limits))
        reference, against = reference_logits(source, run, data.tokens)
        with open_or_evaluate(source) as session:
            baseline = measure_source(source, session, data, reference, progress)
            context = MeasureContext(source, session, baseline, data, limits, against, None, {}, progress)
            try:
                report = dataclasses.replace(measure_result(quantized, context), source=str(run))
            except NonFiniteError as error:
                raise InputError(
                    f"{quantized.manifest.quantization.describe()} does not suit {run}: {error}; use another scheme"
                ) from None
        check_budget(report, output)
        if check is not None:
            check(quantized)
        with written_folder(output, BUNDLE_MARKER, overwrite) as folder:
            shutil.copytree(quantized.path, folder, dirs_exist_ok=True)
    return QuantizeResult(dataclasses.replace(quantized, path=output), report)
