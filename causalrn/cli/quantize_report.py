"""A quantization in the terminal: before and after, the worst block, what is most sensitive, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from causalrn.calibration.report import QuantizeReport
from causalrn.calibration.sensitivity import Sensitivity
from causalrn.cli.console import console
from causalrn.runtimes.task_accuracy import TaskAccuracy
from causalrn.workflows.pages.figures import time_text

_MOST_ROWS = 14


def print_report(report: QuantizeReport, output: str, *, automatic: bool) -> None:
    """Print it.

    Args:
        output: where the bundle is, or would have been.
        automatic: whether blocks were kept until the budget held, or all but one.
    """
    out = console()
    out.print(f"{report.source}: {report.quantization.describe()}", style="bold")
    out.print(_figures(report))
    worst = report.after.worst_unit
    out.print(
        f"lowest SQNR: {_db(report.after.sqnr_db[worst])}, the output of {worst}, inherited errors included\n"
        f"measured on {report.measured_on}\ncompared with {report.against}",
    )
    if report.times.is_noise:
        out.print("~: the turns, taken by both in pairs, do not tell the times apart")
    if report.sensitivities:
        out.print(_sensitivity_table(report.sensitivities, report.granularity))
    for note in report.notes:
        out.print(f"note: {note}", style="yellow")
    if report.passed:
        out.print(f"wrote {output}")
        return
    for fault in report.faults:
        out.print(f"FAIL {fault}", style="bold red")
    kept = "" if automatic or report.quantization.scheme == "float32" else "--keep-blocks-fp32 auto, "
    out.print(
        f"nothing was written to {output}: try {kept}another scheme, or allow more (--max-accuracy-drop, --max-kl)",
    )


def _figures(report: QuantizeReport) -> Table:
    before, after, ratios = report.before, report.after, report.ratios()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for column in ("float32", "quantized", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    sizes = (("weights", "weights_bytes"), ("bundle without golden vectors", "bundle_bytes"))
    for name, key in sizes:
        table.add_row(name, _size(getattr(before, key)), _size(getattr(after, key)), _ratio(ratios[key]))
    if before.state_bytes_per_token:
        key = "state_bytes_per_token"
        pools = (f"{getattr(figures, key):,} B" for figures in (before, after))
        table.add_row("pool per token", *pools, _ratio(ratios[key]))
    for name in ("teacher_forced", "free_running"):
        was, now = getattr(before, name), getattr(after, name)
        if was is not None and now is not None:
            table.add_row(f"{was.unit} right, {name.replace('_', '-')}", _share(was), _share(now), "")
    agreements = (before.agreement, after.agreement)
    table.add_row("KL divergence, nats", *(f"{max(a.kl_divergence, 0.0):.1e}" for a in agreements), "")
    table.add_row("likely tokens changed", *(f"{100 * a.argmax_changes:.3g} %" for a in agreements), "")
    for name, form in (("scale", ".4f"), ("offset", ".0e")):
        values = (getattr(agreement, name) for agreement in agreements)
        table.add_row(f"{name} of logits", *("-" if value is None else format(value, form) for value in values), "")
    times = (time_text(time) for time in (report.times.before_us, report.times.after_us))
    mark = "~" if report.times.is_noise else ""
    table.add_row("time per token, one thread", *times, mark + _ratio(report.times.ratio))
    return table


def _sensitivity_table(ranked: Sequence[Sensitivity], granularity: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), title=f"one {granularity} quantized at a time", title_justify="left"
    )
    table.add_column(granularity, no_wrap=True)
    for column in ("KL divergence", "changed", "SQNR of logits"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in ranked[:_MOST_ROWS]:
        changed = f"{100 * entry.argmax_changes:.3g} %"
        table.add_row(entry.unit, f"{max(entry.kl_divergence, 0.0):.1e}", changed, _db(entry.sqnr_db))
    if len(ranked) > _MOST_ROWS:
        table.add_row(f"... {len(ranked) - _MOST_ROWS} more", "", "", "")
    return table


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _share(accuracy: TaskAccuracy) -> str:
    return f"{100 * accuracy.accuracy:.2f} %"


def _db(value: float) -> str:
    return f"{value:.1f} dB"
