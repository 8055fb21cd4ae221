"""A verification as people see it in a terminal: one table for 80 columns, what failed and why, a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET
from rich import box
from rich.table import Table
from rich.text import Text

from causalrn.bundle.state_spec import StateSpec
from causalrn.cli.console import console, name_written, write_json
from causalrn.cli.coverage_table import print_unverified
from causalrn.cli.flags import in_flags
from causalrn.cli.results_table import results_table
from causalrn.runtimes.parity.report import CONVERTED, FAIL, NOT_EXECUTED, PASS, VerifyReport
from causalrn.runtimes.parity.results import Attribution, LevelResult
from causalrn.workflows.pages.verify_words import describe_side, explain_limits

if TYPE_CHECKING:
    from causalrn.workflows.verify_result import VerifyResult

_STYLES = {PASS: "bold green", FAIL: "bold red", NOT_EXECUTED: "bold yellow", CONVERTED: "bold yellow"}


def write_and_print(
    verified: VerifyResult, json_path: Path | None, html: Path | None, save_outputs: Path | None
) -> None:
    """Write what was asked for, before anything is printed: whoever reads may be gone. Then print the report."""
    written: list[Path | None] = []
    try:
        write_json(json_path, verified.to_json())
        written.append(json_path)
        if html is not None:
            written.append(verified.save_html(html))
        if save_outputs is not None:
            verified.save_outputs(save_outputs)
            written.append(save_outputs)
    finally:
        print_report(verified.report, written)


def print_report(report: VerifyReport, written: Sequence[Path | None] = ()) -> None:
    """Print the table, what failed and why, files that were written, and last the verdict."""
    out = console()
    if report.state is None:
        out.print(f"{report.bundle.path}: {report.card.config.describe()}")
    else:
        out.print(report.card.config.describe())
        out.print(state_table(report.state))
    if report.known_by is not None:
        out.print(f"architecture: {report.known_by.describe()}")
    if report.results or report.measured:
        out.print(f"compared with {report.against}")
        out.print(results_table(report.results, report.measured))
    for attribution in report.attributions:
        if attribution.sides:
            out.print(_attribution(attribution))
        else:
            out.print(_title(attribution), style="bold red")
        out.print(attribution.verdict + "\n")
    for result in report.results:
        _print_refusals_and_calls(result)
    out.print(explain_limits(report))
    if report.measured:
        out.print("-: measured, and nothing to compare it with: neither passed nor failed")
    for note in report.notes:
        out.print(f"note: {in_flags(note)}")
    if report.coverage is not None:
        print_unverified(report.coverage)
    for problem in report.problems:
        out.print(f"problem: {in_flags(problem)}", style="red")
    if report.not_executed:
        what = "the bundle's runtime did" if report.verdict == CONVERTED else "the engines were"
        out.print(f"{what} not run: {in_flags(report.not_executed)}", style="yellow")
    name_written(*written)
    out.print(report.verdict, style=_STYLES[report.verdict])


def state_table(state: StateSpec) -> Table:
    """What a model carries from token to token."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, title="state", title_justify="left")
    for name, justify in (("tensor", "left"), ("shape", "left"), ("dtype", "left"), ("bytes", "right")):
        table.add_column(name, justify=justify, no_wrap=name != "shape")  # type: ignore[arg-type]
    for tensor in state.tensors:
        size = tensor.item_bytes * math.prod(tensor.given(batch=1, rows=1))
        per = " per token" if tensor.is_pool else ""
        table.add_row(tensor.name, ", ".join(map(str, tensor.shape)), tensor.dtype, f"{size:,}{per}")
    return table


def _print_refusals_and_calls(result: LevelResult) -> None:
    """What was not refused, and calls that fail, as calls and as Python."""
    out, guards, calls = console(), result.figures.guards, result.figures.calls
    for check in () if result.figures.checks is UNSET else result.figures.checks:
        if not check.passed:
            out.print(f"{result.runtime} fails at {result.level}: {check.outcome}", style="red")
    for guard in () if guards is UNSET else guards:
        if not guard.passed:
            out.print(f"{result.runtime} fails at guards, {guard.name}: {guard.outcome}", style="red")
    if calls is UNSET or calls.failing is None:
        return
    walk = calls.failing
    threads = "" if walk.threads is None else f", {walk.threads} threads"
    out.print(f"{result.runtime} fails at calls{threads} (seed {calls.seed}); these calls do it:", style="bold red")
    out.print(Text(f"  {'; '.join(walk.calls)}"))
    out.print(Text(f"  {walk.problem}"))
    if not walk.repeats:
        out.print("  alone, in a session that has just been opened, they do not: something before them matters")
    out.print(Text("\n" + walk.python))


def _title(attribution: Attribution) -> str:
    return f"{attribution.runtime} fails at {attribution.level}; cause: {attribution.cause}"


def _attribution(attribution: Attribution) -> Table:
    """What each way of computing the step gave at which a failure begins."""
    table = Table(
        title=_title(attribution),
        title_style="bold red",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("computed by", "from state"):
        table.add_column(name, no_wrap=True)
    for name in ("error", "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first wrong")
    for side in attribution.sides:
        table.add_row(*describe_side(side))
    return table
