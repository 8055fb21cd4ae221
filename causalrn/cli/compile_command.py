"""`causalrn-export compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.bundle.engine_spec import Range
from causalrn.bundle.manifest import BUNDLE_MARKER
from causalrn.bundle.trt_flavors import FLAVORS, HARDWARE_LEVELS
from causalrn.cli.console import name_written, require_extra, write_all_json
from causalrn.cli.number_types import Whole
from causalrn.cli.options import (
    PATH,
    check_places,
    checked_place,
    json_option,
    output_option,
    overwrite_option,
    tell_what_goes,
)
from causalrn.cli.verbosity import show_progress

_MOST = 1 << 20


class _RangeType(click.ParamType[Range]):
    """MIN/OPT/MAX: three numbers of rows."""

    name = "MIN/OPT/MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Range:
        if isinstance(value, tuple):
            return value
        parts = str(value).split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
            self.fail(f"{value!r} is not MIN/OPT/MAX, three numbers like 1/128/1024", param, ctx)
        low, likely, high = map(int, parts)
        return low, likely, high


@click.command(
    epilog="""\b
Examples:
  causalrn-export compile bundle -o engine           fixed pool, or linear
  causalrn-export compile bundle -o engine --capacity 64 --capacity 256
  causalrn-export compile bundle -o engine --profile 1/64/128
  causalrn-export compile bundle -o engine --compute-capability 8.9 --tf32
  causalrn-export compile bundle -o engine --export-layer-info layers.json

Then, on a machine with a GPU: causalrn-export verify engine"""
)
@click.argument("bundle", type=PATH)
@output_option
@overwrite_option
@click.option(
    "--flavor",
    type=click.Choice(tuple(FLAVORS)),
    default="rtx",
    show_default=True,
    help="rtx: TensorRT-RTX, builds without a GPU; trt: TensorRT, builds on the GPU that it is for.",
)
@click.option(
    "--capacity",
    multiple=True,
    type=Whole(2, _MOST),
    help="Of a fixed pool: also compile steps that read so many rows; the session moves up as the pool fills. May be "
    "repeated.  [default: the pool's own only]",
)
@click.option(
    "--profile",
    multiple=True,
    type=_RangeType(),
    help="Of a growing pool: rows that steps read. Repeated, each begins one row after the one before.",
)
@click.option("--max-batch", type=Whole(1, _MOST), default=16, show_default=True, help="Most sequences.")
@click.option("--prefill-chunk", type=Whole(1, _MOST), help="Most tokens at once.  [default: the bundle's]")
@click.option("--tf32", is_flag=True, help="Let float32 products round to TF32: faster, 1e-3 instead of 1e-6.")
@click.option(
    "--compute-capability",
    multiple=True,
    help="Of rtx: a GPU to compile for, as 8.9; may be repeated.  [default: portable from 8.6 on]",
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(tuple(HARDWARE_LEVELS)),
    default="none",
    show_default=True,
    help="Of trt: other GPUs that may run it.",
)
@click.option("--version-compatible", is_flag=True, help="Of trt: later versions of the same major one may run it.")
@click.option("--workspace", type=Whole(1, _MOST), help="Most scratch memory, in MiB.")
@click.option("--timing-cache", type=PATH, callback=checked_place, help="Of trt: keep what was timed in this file.")
@click.option("--export-layer-info", "layer_info", type=PATH, callback=checked_place, help="Write the layers, JSON.")
@json_option
def command(bundle: Path, output: Path, flavor: str, **options: Any) -> None:
    """Compile a bundle to TensorRT engines for an NVIDIA GPU.

    Precision is what the bundle has: float32 with TF32 off, or what `quantize` made of it (fp16, w8 and w4 with --form
    qdq, w8a8). It needs a linear readout, a fixed pool (`export --pool fixed`), or --profile for a growing one. What
    TensorRT cannot take is named, node by node, before it is tried. The result is an engine bundle for `verify`, `run`
    and `inspect`.
    """
    places = {name: options.pop(name) for name in ("json_path", "layer_info")}
    check_places([*places.values(), options["timing_cache"]], [], output)
    tell_what_goes(output, BUNDLE_MARKER, options["overwrite"])
    require_extra("onnx", f"causalrn[{FLAVORS[flavor].extra}]")
    from causalrn.cli.compile_table import print_compiled
    from causalrn.workflows.compile import CompileResult, compile

    def write_reports(result: CompileResult) -> None:
        write_all_json([(places["layer_info"], result.layers_json()), (places["json_path"], result.to_json())])

    layer_details = places["layer_info"] is not None
    asked = {"output": output, "flavor": flavor, "layer_details": layer_details, **options}
    print_compiled(compile(bundle, **asked, progress=show_progress, on_result=write_reports), output)
    name_written(*places.values())
