"""A benchmark as JSON: written with what follows from its rows, read row by row to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.json_values import from_json, to_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.growth import Growth
from causalrn.runtimes.bench.results import BenchReport, Row

BENCH_VERSION = 1
_FORMAT = "causalrn-bench"


def report_json(report: BenchReport) -> dict[str, Any]:
    """A report as JSON values."""
    values: dict[str, Any] = to_json(
        {
            "report": _FORMAT,
            "version": BENCH_VERSION,
            "settings": report.settings,
            "environment": report.environment,
            "base": report.base,
            "interrupted": report.interrupted,
            "noisy_rows": len(report.noisy),
            "load_ms": report.load_ms,
            "machine": report.floors,
            "no_floor": report.no_floor,
        }
    )
    rows, growths = map(row_json, report.rows), map(growth_json, report.growths())
    return {**values, "rows": list(rows), "growth": list(growths)}


def row_json(row: Row) -> dict[str, Any]:
    """A row as JSON values: its entries, its workload's, and where it was measured what follows from its times."""
    values: dict[str, Any] = to_json(row)
    values |= values.pop("workload")
    if row.status != "measured":
        return values
    derived = {"tokens_per_s": row.tokens_per_s, "share_of_floor": row.share_of_floor, "noisy": row.time_us.noisy}
    return {**values, "time_us": to_json(row.time_us), **to_json(derived)}


def growth_json(growth: Growth) -> dict[str, Any]:
    """A line as JSON values, with what follows from it."""
    derived = {"largest_residual": growth.largest_residual, "rise_us": growth.rise_us, "kind": growth.kind}
    return {**to_json(growth), **to_json(derived)}


@dataclass(frozen=True)
class SavedReport:
    """What is read of a report's JSON.

    Attributes:
        rows: as :func:`row_json` gives them.
        environment: versions and processor of the machine.
    """

    rows: Sequence[dict[str, Any]]
    environment: Mapping[str, Any]


def read_report(data: Mapping[str, Any], source: str) -> tuple[list[Row], Mapping[str, Any]]:
    """Rows and environment of a report's JSON values; `source` is named in errors.

    Raises:
        InputError: no report of this version, or a malformed one.
    """
    if (data.get("report"), data.get("version")) != (_FORMAT, BENCH_VERSION):
        raise InputError(f"{source}: no report of this version's bench: name one that bench wrote")
    source = f"{source}: a malformed report, measure again"
    saved = from_json(data, SavedReport, source, InputError)
    rows = from_json([{**row, "workload": row} for row in saved.rows], list[Row], source, InputError)
    return rows, saved.environment
