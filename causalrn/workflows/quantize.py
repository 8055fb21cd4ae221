"""Quantization of a bundle, kept only if it loses no more than is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from causalrn.bundle.disk.files import as_path
from causalrn.bundle.quantization import CALIBRATION_METHODS, FORMS, SCHEMES, WEIGHT_ONLY
from causalrn.errors import InputError
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.workflows.arguments import (
    LARGEST_SEED,
    PathLike,
    flag,
    narrow_pool,
    optional_choice,
    optional_number,
    optional_path,
    optional_share,
    optional_whole,
    whole_number,
)
from causalrn.workflows.quantize_bundle import quantize_bundle
from causalrn.workflows.quantize_options import AUTOMATIC, QuantizeOptions
from causalrn.workflows.quantize_result import OnReport, QuantizeResult, ignore_report


def quantize(
    bundle: PathLike,
    *,
    output: PathLike,
    scheme: str | None = None,
    form: str | None = None,
    pool8: bool = False,
    pool16: bool = False,
    method: str | None = None,
    percentile: float | None = None,
    keep_blocks_fp32: int | str = 0,
    checkpoint: PathLike | None = None,
    load_inputs: PathLike | None = None,
    text: PathLike | None = None,
    sequences: int | None = None,
    calibration: PathLike | None = None,
    save_calibration: PathLike | None = None,
    samples: int | None = None,
    max_accuracy_drop: float | None = None,
    max_kl: float | None = None,
    sensitivity: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
    on_report: OnReport = ignore_report,
) -> QuantizeResult:
    """Quantize an ONNX bundle, and keep the result only if it loses no more than is allowed.

    Args:
        bundle: in float32; it stays as it is.
        output: folder to write; an earlier bundle there is replaced.
        scheme: "w8", "w4" (weights of 8 or 4 bits), "w8a8-dynamic", "w8a8" (int8 products), "fp16"; None for pools
            alone.
        form: of w8 and w4, "nbits" (MatMulNBits) or "qdq" (DequantizeLinear); nbits by default.
        pool8: pool rows in int8 with a scale per row.
        pool16: pool rows in float16; not with `pool8`.
        method: of w8a8, "minmax", "percentile" or "entropy"; minmax by default.
        percentile: of the method percentile, percent of values that are not clipped; 99.99 by default.
        keep_blocks_fp32: how many of the most sensitive blocks stay float32, or "auto": as few as it takes to pass.
        checkpoint: of the bundle: compare with its float64 oracle.
        load_inputs: .npy file of token ids [B, T] to calibrate and measure on.
        text: file that a text model is calibrated and measured on.
        sequences: of the task to calibrate on; 64 by default.
        calibration: calibration table to use instead of calibrating; save_calibration: file for the one that is made.
        samples: strings to measure accuracy on; 1,000 by default.
        max_accuracy_drop: percentage points of accuracy that may be lost; None takes the scheme's budget.
        max_kl: KL divergence allowed, in nats; None takes the scheme's budget.
        sensitivity: "block" or "tensor": quantize one at a time, and rank them.
        seed: of sequences and samples.
        overwrite: replace a bundle whose folder holds files that were added or changed since; they are deleted.
        progress: shows progress.
        on_report: called with the report before the bundle is put in its place: where that fails, none appears.

    Raises:
        BudgetExceededError: the result lost more than is allowed; it carries the report, and nothing was written.
        InputError: the output is the source or something else, or arguments contradict each other or the model.
        CalibrationError: nothing to calibrate on, or a table that does not fit.

    Example:
        >>> small = quantize("bundle", output="small", scheme="w8", pool8=True)  # doctest: +SKIP
        >>> small.report.after.bundle_bytes < small.report.before.bundle_bytes  # doctest: +SKIP
        True
    """
    asked: dict[str, Any] = {
        "form": optional_choice(form, "form", FORMS),
        "method": optional_choice(method, "method", CALIBRATION_METHODS),
        "percentile": optional_number(percentile, "percentile", 50, 100),
        "calibration": optional_path(calibration, "calibration"),
        "save_calibration": optional_path(save_calibration, "save_calibration"),
        "sequences": optional_whole(sequences, "sequences", 1),
        "load_inputs": optional_path(load_inputs, "load_inputs"),
        "text": optional_path(text, "text"),
        "pool_dtype": narrow_pool(pool8, pool16),
        "keep_blocks_fp32": _checked_count(keep_blocks_fp32),
        "samples": optional_whole(samples, "samples", 1),
        "sensitivity": optional_choice(sensitivity, "sensitivity", ("block", "tensor")),
        "seed": whole_number(seed, "seed", 0, LARGEST_SEED),
    }
    scheme = optional_choice(scheme, "scheme", SCHEMES)
    check_combinations(scheme, asked)
    limits = {
        "accuracy_drop": optional_share(max_accuracy_drop, "max_accuracy_drop"),
        "kl_divergence": optional_number(max_kl, "max_kl", 0),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if scheme in WEIGHT_ONLY:
        given.setdefault("form", "nbits")
    options = QuantizeOptions(
        scheme or "float32", limits={name: limit for name, limit in limits.items() if limit is not None}, **given
    )
    run = optional_path(checkpoint, "checkpoint")
    return quantize_bundle(
        as_path(bundle, "bundle"),
        as_path(output, "output"),
        options,
        run,
        overwrite=flag(overwrite, "overwrite"),
        progress=progress,
        on_report=on_report,
    )


def _checked_count(value: Any) -> int | str:
    return AUTOMATIC if value == AUTOMATIC else whole_number(value, "keep_blocks_fp32")


def check_combinations(scheme: str | None, asked: Mapping[str, Any]) -> None:
    """Refuse arguments that would be ignored; what was not given is None.

    Raises:
        InputError: two that contradict each other.
    """
    given = {name for name, value in asked.items() if value is not None}
    if scheme is None and asked["pool_dtype"] == "float32":
        raise InputError("nothing to quantize: name a `scheme`, `pool8` or `pool16`")
    if "form" in given and scheme not in WEIGHT_ONLY:
        raise InputError(f"`form` is for the schemes {' and '.join(WEIGHT_ONLY)}")
    if asked["keep_blocks_fp32"] and scheme is None:
        raise InputError("`keep_blocks_fp32` needs a `scheme`: pools alone have no weights that could be kept")
    if "sequences" in given and scheme != "w8a8" and "save_calibration" not in given:
        raise InputError("`sequences` is for the scheme w8a8, or `save_calibration`: nothing else is calibrated")
    if scheme != "w8a8":
        for name in sorted(given.intersection(("method", "percentile", "calibration"))):
            raise InputError(f"`{name}` is for the scheme w8a8: the others need no calibration")
    if "percentile" in given and asked["method"] != "percentile":
        raise InputError(f"`percentile` and `method` {asked['method'] or 'minmax'} contradict each other")
    if "calibration" in given:
        for name in sorted(given.intersection(("sequences", "save_calibration"))):
            raise InputError(f"`calibration` and `{name}` contradict each other")
    if "load_inputs" in given and "sequences" in given:
        raise InputError("`load_inputs` and `sequences` contradict each other: the file says how many there are")
