"""`bench --profile`: where a step's time goes in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from causalrn.cli.bench_table import time_text
from causalrn.cli.console import console, write_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.profiling import ROLES, Profile, profile_step
from causalrn.runtimes.session_options import SessionOptions


def profile(folders: Sequence[Path], options: dict[str, Any]) -> None:
    """Print every bundle's profile at every depth, and write them.

    Raises:
        InputError: a folder that is no ONNX bundle, or depths that it does not have.
    """
    if len(options["threads"]) > 1:
        raise InputError("--profile takes one number of --threads")
    session = SessionOptions(options["provider"], threads=(options["threads"] or (1,))[0])
    reports = []
    for folder in folders:
        for depth in options["depths"] or (None,):
            found = profile_step(folder, depth, session)
            reports.append({"folder": str(folder), **found.to_json()})
            _print(folder, found)
    write_json(options["json_path"], {"report": "causalrn-profile", "version": 1, "profiles": reports})


def _print(folder: Path, found: Profile) -> None:
    out = console()
    out.print(
        f"{folder}, depth {found.depth:,}: microseconds by block and role, mean of {found.steps} steps", soft_wrap=True
    )
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
        soft_wrap=True,
    )
