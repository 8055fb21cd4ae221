"""`causalrn-export quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.quantization import CALIBRATION_METHODS, FORMS, SCHEMES
from causalrn.cli.console import EXIT_CHECK_FAILED, name_written, require_extra, write_json
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import (
    PATH,
    check_places,
    checked_place,
    given_options,
    json_option,
    output_option,
    overwrite_option,
    seed_option,
    tell_what_goes,
)
from causalrn.cli.verbosity import show_progress
from causalrn.errors import BudgetExceededError, InputError

if TYPE_CHECKING:
    from causalrn.calibration.report import QuantizeReport

_MOST = 1 << 20


class _CountOrAuto(click.ParamType[int | str]):
    """A number of blocks, or `auto`."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value == "auto":
            return "auto" if value == "auto" else int(value)
        if not (str(value).isascii() and str(value).isdigit()):
            self.fail(f"{value!r} is neither a number of blocks nor auto", param, ctx)
        return int(value)


@click.command(
    epilog="""\b
Examples:
  causalrn-export quantize bundle -o bundle-w8 --scheme w8
  causalrn-export quantize bundle -o small --scheme w8 --pool8
  causalrn-export quantize bundle -o small --scheme w4 --keep-blocks-fp32 auto
  causalrn-export quantize bundle -o engine --scheme w8 --form qdq    TensorRT
  causalrn-export quantize bundle -o int8 --scheme w8a8 --method entropy
  causalrn-export quantize bundle -o int8 --scheme w8a8 --sensitivity tensor

Exit code 1, and no bundle written, if the result loses more than is allowed."""
)
@click.argument("bundle", type=PATH)
@output_option
@overwrite_option
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    help="w8, w4: weights of 8 or 4 bits; w8a8-dynamic: int8 products, scales computed at every step; w8a8: int8 "
    "products, scales from calibration; fp16: float16 products and pools.  [default: none, with --pool8 or --pool16]",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    help="Of w8 and w4: nbits (MatMulNBits, fast in onnxruntime) or qdq (DequantizeLinear, portable, TensorRT).  "
    "[default: nbits]",
)
@click.option("--pool8", is_flag=True, help="Pool rows in int8 with a scale per row: a quarter of the memory.")
@click.option("--pool16", is_flag=True, help="Pool rows in float16: half the memory, and hardly any error.")
@click.option(
    "--method",
    type=click.Choice(CALIBRATION_METHODS),
    default="minmax",
    show_default=True,
    help="Of w8a8: what int8 has to hold: every value, all but a few, or what loses least information.",
)
@click.option(
    "--percentile",
    type=Real(50, 100),
    default=99.99,
    show_default=True,
    help="Percent of the values that --method percentile does not clip.",
)
@click.option(
    "--keep-blocks-fp32",
    type=_CountOrAuto(),
    default=0,
    help="Leave the N most sensitive blocks (or the head) in float32; auto: as few as it takes to pass. Pools and "
    "embeddings are no blocks.  [default: 0]",
)
@click.option("--checkpoint", type=PATH, help="The RUN of the bundle: compare with its float64 oracle.")
@click.option("--load-inputs", type=PATH, help="Calibrate and measure on these token ids, .npy [B, T].")
@click.option("--text", type=PATH, help="Calibrate and measure a text model on the last tenth of this file.")
@click.option(
    "--sequences",
    type=Whole(1, _MOST),
    default=64,
    show_default=True,
    help="Sequences of the task to calibrate on: prompts, and the model's own answers fed back.",
)
@click.option("--calibration", type=PATH, help="Use this table instead of calibrating.")
@click.option("--save-calibration", type=PATH, callback=checked_place, help="Also write the calibration table, JSON.")
@click.option("--samples", type=Whole(1, _MOST), help="Strings to measure accuracy on.  [default: 1000]")
@click.option(
    "--max-accuracy-drop",
    type=Real(0, 100),
    help="Percentage points of accuracy that may be lost.  [default: as `verify`: 0.5; w8a8 1, w4 5]",
)
@click.option(
    "--max-kl",
    type=Real(0),
    help="KL divergence allowed, in nats.  [default: as `verify`]",
)
@click.option(
    "--sensitivity",
    type=click.Choice(["block", "tensor"]),
    help="Quantize one block or weight at a time, and rank them.",
)
@click.option("--plot", type=PATH, callback=checked_place, help="Also draw it, .png, .svg or .pdf; needs matplotlib.")
@seed_option
@json_option
@click.pass_context
def command(context: click.Context, /, bundle: Path, output: Path, **options: Any) -> None:
    """Quantize a bundle, and keep the result only if it loses no more than is allowed.

    The source stays as it is. Sizes, accuracy on the task (teacher-forced, and free-running with the state carried),
    KL divergence, the error of each block and the time per token are shown before and after; `verify` judges the result
    by the budget of its scheme. Scales of w8a8 come from rollouts, in which the state is really carried. See
    docs/quantization.md.
    """
    places = {name: options.pop(name) for name in ("json_path", "plot")}
    _check_places(output, places, options)
    tell_what_goes(output, BUNDLE_MARKER, options["overwrite"])
    given = given_options(context)
    for name in ("method", "percentile", "sequences"):  # shown with their defaults, and refused where they mean nothing
        options[name] = options[name] if name in given else None
    for package in ("onnx", "onnx_ir"):
        require_extra(package)
    if options["checkpoint"] is not None:
        require_extra("torch")
    from causalrn.cli.quantize_report import print_report
    from causalrn.workflows.quantize import quantize

    def write_reports(report: QuantizeReport) -> None:
        write_json(places["json_path"], report.entries())
        if places["plot"] is not None:
            from causalrn.workflows.pages.quantize_plot import save_plot

            save_plot(places["plot"], report)

    automatic = options["keep_blocks_fp32"] == "auto"
    try:
        result = quantize(bundle, output=output, **options, progress=show_progress, on_report=write_reports)
    except BudgetExceededError as error:
        print_report(error.report, str(output), automatic=automatic)
        name_written(*places.values())
        context.exit(EXIT_CHECK_FAILED)
    print_report(result.report, str(output), automatic=automatic)
    name_written(*places.values(), options["save_calibration"])


def _check_places(output: Path, places: dict[str, Path | None], options: dict[str, Any]) -> None:

    read = [options[name] for name in ("load_inputs", "text", "calibration")]
    written = [*places.values(), options["save_calibration"]]
    check_places(written, read, output)
    plot = places["plot"]
    if plot is not None:
        from causalrn.workflows.pages.quantize_plot import FORMATS

        require_extra("matplotlib")
        if plot.suffix.lower().removeprefix(".") not in FORMATS:
            raise InputError(f"{plot}: a picture's name ends in {', '.join('.' + name for name in FORMATS)}")
