"""A verification as people see it: one table for 80 columns, the tolerance explained, a verdict."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from causalrn.export.cli.console import console
from causalrn.export.cli.verify_run import VerifyReport
from causalrn.runtimes.parity import ParityRow
from causalrn.tolerances import TOLERANCES


def print_report(report: VerifyReport) -> None:
    """Print the table and the verdict."""
    out = console()
    out.print(f"{report.bundle}: {report.card.config.describe()}", soft_wrap=True)
    out.print(f"compared with {report.against}", soft_wrap=True)
    out.print(_table(report))
    out.print(_explain(report))
    for note in report.notes:
        out.print(f"note: {note}", soft_wrap=True)
    for problem in report.problems:
        out.print(f"problem: {problem}", style="red", soft_wrap=True)
    out.print("PASS" if report.passed else "FAIL", style="bold green" if report.passed else "bold red")


def _table(report: VerifyReport) -> Table:
    recorded = any(row.recorded_relative is not None for row in report.rows)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("form", no_wrap=True)
    for name in ("max abs", "relative", "state", *(["recorded"] if recorded else []), "argmax", "right", "bad\nstep"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        cells = [row.form.replace(", ", "\n"), _figure(row.max_abs), _figure(row.relative), _figure(row.state_relative)]
        cells += [_figure(row.recorded_relative)] if recorded else []
        cells += [f"{100 * row.argmax_agreement:.4g}%", _right(row), _step(row)]
        table.add_row(*cells, Text("ok", "green") if row.passed else Text("FAIL", "red"))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _right(row: ParityRow) -> str:
    return "-" if row.task is None else f"{row.task.right}/{row.task.counted}"


def _step(row: ParityRow) -> str:
    return "-" if row.first_bad_step is None else str(row.first_bad_step)


def _explain(report: VerifyReport) -> str:
    if not report.rows:
        return ""
    row, tolerance = report.rows[0], TOLERANCES["float32", "onnxruntime"]
    return (
        f"tolerance: logits {row.bound:.1e} ({tolerance.relative:.0e} of the largest |logit| "
        f"{report.largest_logit:.3g}, at least {tolerance.absolute:.0e}), "
        f"states {row.state_bound:.0e} of each tensor's largest value; float32 rounding through all blocks stays below "
        f"this, a wrong row, mask or weight does not. States are compared with the float64 recurrent form, itself "
        f"{report.recurrent_error:.0e} from the oracle. {_explain_right(report)}"
    )


def _explain_right(report: VerifyReport) -> str:
    if all(row.task is None for row in report.rows):
        return ""
    if any(row.task is not None and row.task.unit == "bytes" for row in report.rows):
        return "Right: bytes of the text whose most likely next byte is the next one."
    return (
        "Right: strings that free-running greedy decoding answers whole; for parallel counted teacher-forced, which "
        "is the same count, since both see the same tokens up to a first error."
    )
