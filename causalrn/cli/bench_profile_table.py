"""Profiles on the terminal: where a step's time goes in onnxruntime."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from causalrn.cli.console import console
from causalrn.runtimes.bench.profiling import ROLES, Profile
from causalrn.workflows.pages.figures import time_text
from causalrn.workflows.profile import ProfileResult


def print_profiles(result: ProfileResult) -> None:
    """Print every bundle's profile at every depth."""
    for each in result.profiles:
        _print(each.folder, each.profile)


def _print(folder: Path, found: Profile) -> None:
    out = console()
    out.print(f"{folder}, depth {found.depth:,}: microseconds by block and role, mean of {found.steps} steps")
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("block", no_wrap=True)
    for name in (*ROLES, "all"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = found.table()
    for block, row in rows.items():
        table.add_row(block, *(f"{row[role]:.1f}" for role in ROLES), f"{sum(row.values()):.1f}")
    totals = [sum(row[role] for row in rows.values()) for role in ROLES]
    table.add_row("all", *(f"{total:.1f}" for total in totals), f"{found.nodes_us:.1f}", style="bold")
    table.add_row("share", *(f"{total / found.nodes_us:.0%}" for total in totals), "", style="bold")
    out.print(table)
    out.print("other: reshapes, splits, gathers, and additions to the residual stream")
    plain, counted = time_text(found.step_us), time_text(found.nodes_us)
    out.print(
        f"a step takes {plain}; its {len(found.nodes)} nodes take {counted} while they are counted: onnxruntime's "
        "profiler adds 1 to 2 us to each\n",
    )
