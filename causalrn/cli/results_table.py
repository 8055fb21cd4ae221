"""Results of a verification as a table for 80 columns: `verify` prints it, `inspect` shows a certificate's."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from causalrn.runtimes.parity.results import ALL_LEVELS, LevelResult
from causalrn.workflows.pages.verify_words import figure_text


def results_table(results: Iterable[LevelResult], measured: Iterable[LevelResult] = ()) -> Table:
    """A row per level and runtime, with a verdict; and rows that were measured and have none, marked by a dash."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("level", no_wrap=True)
    table.add_column("runtime", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("outcome")
    table.add_column("", no_wrap=True)
    level: str = ""
    rows = [*((result, True) for result in results), *((result, False) for result in measured)]
    for result, is_verdict in sorted(rows, key=lambda row: ALL_LEVELS.index(row[0].level)):
        shown = "" if result.level == level else result.level
        level = result.level
        figures = (figure_text(result.error), figure_text(result.allowed))
        verdict = Text("ok", "green") if result.passed else Text("FAIL", "bold red")
        verdict = verdict if is_verdict else Text("-", "dim")
        table.add_row(shown, result.runtime, *figures, result.summary, verdict)
    return table
