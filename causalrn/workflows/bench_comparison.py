"""A benchmark beside an earlier one: every row's time over the same row's time then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from causalrn.bundle.json_values import parse_json_object
from causalrn.cli.bench_table import time_text
from causalrn.cli.console import console
from causalrn.errors import InputError
from causalrn.runtimes.bench.results import BENCH_VERSION, Row


@dataclass(frozen=True)
class Comparison:
    """A row, and the same row of an earlier run."""

    row: Row
    earlier: Row

    @property
    def ratio(self) -> float:
        """Time over earlier time."""
        return self.row.time_us.median / self.earlier.time_us.median

    @property
    def floor_ratio(self) -> float | None:
        """The same, each time as a multiple of its own run's floor; None where one is not known."""
        if self.row.floor_us is None or self.earlier.floor_us is None:
            return None
        return self.ratio * self.earlier.floor_us / self.row.floor_us

    @property
    def judged(self) -> float:
        """The ratio that tells a change of the code: without that of the machine, where its floors are known."""
        return self.ratio if self.floor_ratio is None else self.floor_ratio

    @property
    def noisy(self) -> bool:
        """Whether one of the two is too noisy to be compared."""
        return self.row.time_us.noisy or self.earlier.time_us.noisy

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        work = self.row.workload
        return {
            "name": self.row.name,
            "kind": work.kind,
            "tokens": work.tokens,
            "depth": work.depth,
            "batch": work.batch,
            "before_us": self.earlier.time_us.median,
            "now_us": self.row.time_us.median,
            "ratio": self.ratio,
            "floor_ratio": self.floor_ratio,
            "noisy": self.noisy,
        }


@dataclass(frozen=True)
class Earlier:
    """An earlier report: its measured rows by what makes them the same row, and its environment."""

    path: Path
    rows: Mapping[tuple[Any, ...], Row]
    environment: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Earlier:
        """Read what `bench --json` wrote.

        Raises:
            InputError: a missing file, or something else than a report of this version.
            ConfigError: no JSON.
        """
        try:
            data = parse_json_object(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{path}: no file that can be read: name one that `bench --json` wrote") from None
        return cls.from_json(data, path)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> Earlier:
        """From a report's JSON form; `path` is named in errors."""
        if data.get("report") != "causalrn-bench" or data.get("version") != BENCH_VERSION:
            raise InputError(f"{path}: no report of this version's bench: name one that `bench --json` wrote")
        try:
            rows = [Row.from_json(row) for row in data["rows"]]
            environment = dict(data["environment"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: a malformed report ({error}): measure again") from None
        return cls(path, {row.key: row for row in rows if row.status == "measured" and row.times_us}, environment)

    def compare(self, rows: Iterable[Row]) -> list[Comparison]:
        """Rows that were there before."""
        return [Comparison(row, self.rows[row.key]) for row in rows if row.key in self.rows]

    def missing(self, comparisons: Iterable[Comparison]) -> list[Row]:
        """Rows that are there no more."""
        found = {each.row.key for each in comparisons}
        return [row for key, row in self.rows.items() if key not in found]


def print_comparisons(before: Earlier, comparisons: Sequence[Comparison], environment: Mapping[str, Any]) -> None:
    """Print a table of ratios, and what the two runs do not share."""
    out = console()
    title = f"now / before ({before.path})"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("workload", overflow="fold")
    for name in ("before", "now", "ratio", "floor out"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in comparisons:
        times = (time_text(row.time_us.median) for row in (each.earlier, each.row))
        mark = "~" if each.noisy else ""
        floor = "" if each.floor_ratio is None else f"{each.floor_ratio:.2f}"
        table.add_row(each.row.name, each.row.workload.title, *times, f"{mark}{each.ratio:.2f}", floor)
    out.print(table if comparisons else f"nothing here was measured in {before.path}, too: names and workloads differ")
    if comparisons:
        out.print("floor out: with each time as a multiple of its run's floor; ~ where one of them is noisy")
    gone = before.missing(comparisons)
    if gone:
        names = ", ".join(dict.fromkeys(row.name for row in gone))
        out.print(f"only measured before: {len(gone)} rows of {names}", soft_wrap=True)
    for name in ("processor", "platform", "packages"):
        if before.environment.get(name) != environment.get(name):
            out.print(f"not the same {name} as before", style="yellow")
    out.print()
