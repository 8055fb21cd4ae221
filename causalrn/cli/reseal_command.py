"""`causalrn-export reseal`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli.console import EXIT_CHECK_FAILED, console, name_written, require_extra, write_json
from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, json_option, seed_option
from causalrn.cli.verbosity import show_progress


@click.command(
    epilog="""\b
Examples:
  onnxslim bundle/step.onnx bundle/step.onnx
  causalrn-export reseal bundle --checkpoint run --tool "onnxslim 0.1.90"

Exit code 1, and the bundle is left as it is, if anything is out of tolerance."""
)
@click.argument("bundle", type=PATH)
@click.option("--checkpoint", type=PATH, required=True, help="The RUN that it was exported from.")
@click.option("--tool", default="", help="What changed the graphs, for the record.")
@click.option(
    "--samples",
    type=Whole(1),
    default=1000,
    show_default=True,
    help="Sequences to measure accuracy on.",
)
@seed_option
@click.option("--time-budget", type=Real(1), default=300, show_default=True, help="Seconds for the verification.")
@json_option
@click.pass_context
def command(context: click.Context, /, bundle: Path, json_path: Path | None, **options: Any) -> None:
    """Give a bundle whose graphs were changed on purpose new hashes, if it passes.

    Graphs may be simplified, optimized or edited, with their weights inside or in another file, or in onnxruntime's own
    format (step.ort in place of step.onnx). The whole bundle is verified against the RUN, as `verify` does; if it
    passes, it gets new hashes, new golden vectors, and a record of what changed: `inspect` shows it. A certificate of
    before goes: it was about other files.
    """
    from causalrn.cli.verify_report import print_report
    from causalrn.workflows.reseal import reseal

    for package in ("torch", "onnx", "onnxscript"):
        require_extra(package)
    result = reseal(bundle, progress=show_progress, **options)
    report = {"resealed": result.bundle is not None, "what": result.resealing, "verification": result.verification}
    write_json(json_path, {"report": "causalrn-reseal", "version": 1, **_as_json(report)})
    print_report(result.verification.report)
    name_written(json_path)
    if result.bundle is None:
        console().print(f"{bundle} was left as it is")
        context.exit(EXIT_CHECK_FAILED)
    _print_changes(result.resealing, result.bundle)


def _as_json(report: dict[str, Any]) -> dict[str, Any]:
    from causalrn.bundle.json_values import to_json

    return report | {"what": to_json(report["what"]), "verification": report["verification"].to_json()}


def _print_changes(resealing: Any, bundle: Any) -> None:
    out = console()
    out.print(f"resealed {bundle.path}: {resealing.describe()}")
    for file, operators in resealing.nodes.items():
        counts = ", ".join(f"{count:+d} {operator}" for operator, count in operators.items())
        out.print(f"  {file}: {counts} nodes")
    if resealing.restored:
        out.print(f"  entries of the manifest restored in {', '.join(resealing.restored)}")
