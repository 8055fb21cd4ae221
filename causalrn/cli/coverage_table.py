"""What a verification executed of a bundle, for 80 columns: `verify` says it in a few lines, `inspect` file by file."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from causalrn.bundle.model_card import MODEL_CARD
from causalrn.cli.console import console
from causalrn.runtimes.parity.coverage import Coverage, FileUse

_STYLES: dict[FileUse, str] = {
    "executed": "green",
    "executed, failed": "red",
    "executed, not compared": "yellow",
    "read": "",
    "hashed only": "yellow",
}
_QUESTIONABLE: tuple[FileUse, ...] = ("executed, failed", "executed, not compared", "hashed only")


def print_coverage(coverage: Coverage) -> None:
    """Every file with what executed it, and what is not covered."""
    out, table = console(), Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("file", overflow="fold")
    table.add_column("use", no_wrap=True)
    table.add_column("executed by")
    for file in coverage.files:
        table.add_row(file.name, Text(file.use, _STYLES[file.use]), ", ".join(file.by))
    out.print(table)
    print_gaps(coverage)


def print_gaps(coverage: Coverage) -> None:
    """What is not covered, a line each."""
    out = console()
    for words in coverage.not_executed:
        out.print(f"not executed here: {words}", style="yellow")
    for words in coverage.not_covered:
        out.print(f"not covered: {words}")


def print_unverified(coverage: Coverage) -> None:
    """Which files were not found to be right, and what could not run here."""
    out = console()
    for use in _QUESTIONABLE:
        names = [name for name in coverage.files_of(use) if Path(name).name != MODEL_CARD]  # nothing executes a text
        if names:
            out.print(f"{use}: {', '.join(names)}")
    for words in coverage.not_executed:
        out.print(f"not executed here: {words}", style="yellow")
