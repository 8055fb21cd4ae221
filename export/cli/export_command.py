"""`causalrn-export export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.export.cli.console import EXIT_CHECK_FAILED, console, require_extra
from causalrn.export.cli.options import PATH, output_option
from causalrn.quantization import SCHEMES
from causalrn.state_spec import POOL_KINDS, StateSpec


@click.command(
    epilog="""\b
Examples:
  causalrn-export export run -o bundle
  causalrn-export export run -o bundle --opset 21          for onnxruntime 1.22
  causalrn-export export run -o bundle --pool fixed --capacity 34
  causalrn-export export run -o small --scheme w8          export and quantize in one go
Exit code 1, and no bundle written, if --scheme loses more than is allowed."""
)
@click.argument("run", type=PATH)
@click.option("--target", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="What to write.")
@click.option(
    "--pool",
    type=click.Choice(POOL_KINDS),
    default="growing",
    show_default=True,
    help="How a growing state goes in and out: rows that the runtime appends; a fixed capacity with a mask; or "
    "concatenated in the graph, for servers that feed outputs back.",
)
@click.option("--capacity", type=click.IntRange(min=1), help="Most positions.  [default: the model's]")
@click.option("--opset", type=int, default=23, show_default=True, help="ONNX opset: 23, 22 or 21.")
@click.option("--scheme", type=click.Choice(SCHEMES), help="Quantize it, too: see `quantize`, which has more options.")
@output_option
@click.pass_context
def command(
    context: click.Context, /, run: Path, output: Path, target: str, scheme: str | None, **options: Any
) -> None:
    """Export a RUN's recurrent cell as a bundle for a device.

    The bundle holds a step graph, a prefill graph, their weights, a manifest with the state contract and the hash of
    every file, and golden vectors with which a device can check itself: `causalrn-export verify BUNDLE`.
    """
    assert target == "onnx"
    for package in ("torch", "onnx", "onnxscript"):
        require_extra(package)
    if scheme is None:
        _export(run, output, **options)
        return
    from causalrn.export.cli.quantize_report import print_report
    from causalrn.export.cli.quantize_run import export_quantized

    report = export_quantized(run, output, scheme, **options)
    print_report(report, str(output), automatic=False)
    if not report.passed:
        context.exit(EXIT_CHECK_FAILED)


def _export(run: Path, output: Path, *, pool: str, capacity: int | None, opset: int) -> None:
    from causalrn.export.cli.export_run import export_bundle

    bundle = export_bundle(run, output, pool=pool, capacity=capacity, opset=opset)
    size = sum(entry["size_bytes"] for entry in bundle.manifest.files.values())
    console().print(f"wrote {output}: {bundle.manifest.card.config.describe()}", soft_wrap=True)
    console().print(
        f"{len(bundle.manifest.files)} files, {size / 1e6:.2f} MB, opset {opset}, {_describe(bundle.manifest.state)}"
    )


def _describe(state: StateSpec) -> str:
    capacity = state.tensors[0].capacity
    room = "without end" if capacity is None else f"for {capacity} positions"
    return f"{state.pool} pool {room}" if state.has_pool else f"state of constant size, {room}"
