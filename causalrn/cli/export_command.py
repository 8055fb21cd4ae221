"""`causalrn-export export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.conversions import BACKENDS, CONVERSIONS
from causalrn.bundle.export_profiles import EXPORT_PROFILES
from causalrn.bundle.manifest import BUNDLE_MARKER, INDEX_TYPES
from causalrn.bundle.native_spec import BINDINGS, PACKAGES, PLACEMENTS
from causalrn.bundle.quantization import SCHEMES
from causalrn.bundle.state_spec import POOL_KINDS, StateSpec
from causalrn.bundle.targets import EXPORT_TARGETS
from causalrn.bundle.web_spec import ENGINE_NAMES
from causalrn.cli.console import EXIT_CHECK_FAILED, console, name_written, require_extra, write_json
from causalrn.cli.number_types import Whole
from causalrn.cli.options import PATH, check_places, json_option, output_option, overwrite_option, tell_what_goes
from causalrn.cli.verbosity import show_progress
from causalrn.errors import BudgetExceededError
from causalrn.training.card import card_of


@click.command(
    epilog="""\b
Examples:
  causalrn-export export run -o bundle
  causalrn-export export run -o bundle --profile portable  for older runtimes
  causalrn-export export run -o bundle --pool fixed --capacity 34
  causalrn-export export run -o bundle --ort-format   for its reduced builds
  causalrn-export export run -o small --scheme w8   export and quantize in one
  causalrn-export export run -o source --target c     C99 that needs nothing
  causalrn-export export run -o firmware --target c --profile cortex-m
  causalrn-export export run -o board --target c --package arduino
  causalrn-export export run -o site --target web   a page: then `serve site`
  causalrn-export export run -o site --target web --beside other-site
  causalrn-export export run -o phone --target executorch    .pte programs
  causalrn-export export run -o phone --target litert        a .tflite file
  causalrn-export export run -o apple --target coreml      .mlpackage folders
  causalrn-export export run -o models/copy --target triton   for its server

Exit code 1, and no bundle written, if --scheme, --pool8 or --pool16 loses more than is allowed, or if what another
package has converted does not compute what was trained."""
)
@click.argument("run", type=PATH)
@click.option(
    "--target",
    type=click.Choice(EXPORT_TARGETS),
    default="onnx",
    show_default=True,
    help="What to write: ONNX graphs, C99 source, a folder for browsers, or what ExecuTorch, LiteRT, Core ML or Triton "
    "run.",
)
@click.option(
    "--pool",
    type=click.Choice(POOL_KINDS),
    help="How a growing state goes in and out: in ONNX and converted graphs, rows that the runtime appends, or a fixed "
    "capacity with a mask; in ONNX, concatenated in the graph, for servers that feed outputs back.  [default: growing]",
)
@click.option(
    "--present",
    is_flag=True,
    help="In ONNX, of a fixed pool: give all of it with the new rows in their places, for runtimes that keep states.",
)
@click.option("--capacity", type=Whole(1), help="Most positions.  [default: the model's]")
@click.option("--opset", type=int, metavar="N", help="ONNX opset, 17 to 23.  [default: 23; 17 if portable]")
@click.option("--single-file", is_flag=True, help="Weights inside each ONNX graph, instead of a file that they share.")
@click.option(
    "--index-type", type=click.Choice(INDEX_TYPES), help="In ONNX: type of tokens and position.  [default: int64]"
)
@click.option(
    "--ort-format",
    is_flag=True,
    help="In ONNX: graphs in onnxruntime's own format, and the operators that its reduced builds take.",
)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    help="Quantize it, too: see `quantize`. C, web and LiteRT have w8 and "
    "w8a8-dynamic, ExecuTorch the latter, Core ML fp16.",
)
@click.option(
    "--pool8", is_flag=True, help="In C and web: pool rows as int8 with a scale per row. For ONNX see `quantize`."
)
@click.option(
    "--pool16", is_flag=True, help="In C and web: pool rows as float16, faster where pools are long. Not with --pool8."
)
@click.option(
    "--weights",
    type=click.Choice(PLACEMENTS),
    help="In C: weights in a file, or inline as constant arrays for flash.  [default: file; inline for cortex-m and "
    "packages]",
)
@click.option(
    "--prefix",
    metavar="NAME",
    help="In C: what all names begin with, so that several models fit into one program.  [default: causalrn]",
)
@click.option(
    "--bindings",
    type=click.Choice(BINDINGS),
    multiple=True,
    help="In C: write what this language needs to use the library; repeat it for several.",
)
@click.option(
    "--package",
    type=click.Choice(PACKAGES),
    multiple=True,
    help="In C: lay out a folder for this build system of microcontrollers; repeat it for several.",
)
@click.option(
    "--profile",
    type=click.Choice([profile for those in EXPORT_PROFILES.values() for profile in those]),
    help="In ONNX: portable for the widest use, opset 17 and nothing but ONNX's own operators. In C: cortex-m keeps "
    "memory small, and comes with start-up code and what it takes.  [default: default; in C generic]",
)
@click.option(
    "--engine",
    type=click.Choice(tuple(ENGINE_NAMES)),
    help="In web: C as WebAssembly, or 14 MB of onnxruntime-web, fetched with npm.  [default: c]",
)
@click.option("--beside", type=PATH, help="In web: another web bundle, which the page shows beside this one.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="In executorch: what computes the programs.  [default: xnnpack]",
)
@click.option(
    "--max-batch",
    type=Whole(1),
    help="In executorch: most sequences at once; memory is planned for so many. In triton: most sequences that "
    "are open.  [default: 1; 64 in triton]",
)
@output_option
@overwrite_option
@json_option
@click.pass_context
def command(
    context: click.Context, /, run: Path, output: Path, target: str, json_path: Path | None, **options: Any
) -> None:
    """Export a RUN's recurrent cell as a bundle for a device.

    The bundle holds graphs, C99 source or WebAssembly for steps and prefill, their weights, a manifest with the state
    contract and the hash of every file, and golden vectors with which a device can check itself by `verify`.
    """
    by_graphs = target == "onnx" or options["engine"] == "ort-web"
    for package in ("torch", "onnx", "onnxscript") if by_graphs else ("torch",):
        require_extra(package)
    if target in CONVERSIONS:
        CONVERSIONS[target].check_installed()
    from causalrn.cli.quantize_report import print_report
    from causalrn.workflows.export import export
    from causalrn.workflows.reports import ExportReport, report_values

    check_places([json_path], [options["beside"]], output)
    tell_what_goes(output, BUNDLE_MARKER, options["overwrite"])
    try:
        result = export(run, output=output, target=target, **options, progress=show_progress)
    except BudgetExceededError as error:
        write_json(json_path, report_values(ExportReport.of_refused(str(output), target, error.report)))
        print_report(error.report, str(output), automatic=False)
        context.exit(EXIT_CHECK_FAILED)
    write_json(json_path, report_values(ExportReport.of(result)))
    if result.report is not None:
        print_report(result.report, str(output), automatic=False)
    if result.report is None or target != "onnx":
        _print_written(result.bundle)
    name_written(json_path)


def _print_written(bundle: Bundle) -> None:
    manifest, out = bundle.manifest, console()
    size = sum(entry.size_bytes for entry in manifest.files.values())
    kind = f"opset {manifest.opset}" if manifest.native is None else f"C99, {manifest.native.describe()}"
    for spec in (manifest.web, manifest.converted):
        kind = kind if spec is None else spec.describe()
    out.print(f"wrote {bundle.path}: {card_of(bundle).config.describe()}")
    out.print(f"{len(manifest.files)} files, {size / 1e6:.2f} MB, {kind}, {_describe(manifest.state)}")
    if manifest.target == "c":
        from causalrn.workflows.firmware_size import describe_size

        for line in describe_size(bundle):
            out.print(line)


def _describe(state: StateSpec) -> str:
    capacity = state.capacity
    room = "without end" if capacity is None else f"for {capacity} positions"
    return f"{state.pool} pool {room}" if state.has_pool else f"state of constant size, {room}"
