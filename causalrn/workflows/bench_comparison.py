"""A benchmark beside an earlier one: every row's time over the same row's time then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.reading import read_json_object
from causalrn.bundle.json_values import to_json
from causalrn.runtimes.bench.report_file import read_report
from causalrn.runtimes.bench.results import Row


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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values: the row's name and workload, both times, what follows from them."""
    values: dict[str, Any] = to_json(
        {
            "before_us": comparison.earlier.time_us.median,
            "now_us": comparison.row.time_us.median,
            "ratio": comparison.ratio,
            "floor_ratio": comparison.floor_ratio,
            "noisy": comparison.noisy,
        }
    )
    return {"name": comparison.row.name, **to_json(comparison.row.workload), **values}


@dataclass(frozen=True)
class Earlier:
    """An earlier report: its measured rows by what makes them the same row, and its environment."""

    path: Path
    rows: Mapping[tuple[Any, ...], Row]
    environment: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Earlier:
        """Read the JSON of a benchmark.

        Raises:
            InputError: a missing file, or something else than a report of this version.
        """
        return cls.of(read_json_object(path, "name a report that bench wrote as JSON"), path)

    @classmethod
    def of(cls, data: Mapping[str, Any], path: Path) -> Earlier:
        """From a report's JSON values; `path` is named in errors.

        Raises:
            InputError: no report of this version, or a malformed one.
        """
        rows, environment = read_report(data, str(path))
        return cls(path, {row.key: row for row in rows if row.status == "measured" and row.times_us}, environment)

    def compare(self, rows: Iterable[Row]) -> list[Comparison]:
        """Rows that were there before."""
        return [Comparison(row, self.rows[row.key]) for row in rows if row.key in self.rows]

    def missing(self, comparisons: Iterable[Comparison]) -> list[Row]:
        """Rows that are there no more."""
        found = {each.row.key for each in comparisons}
        return [row for key, row in self.rows.items() if key not in found]

    def changes(self, environment: Mapping[str, Any]) -> Iterator[str]:
        """What of the machine is not the same: "processor", "platform", "packages"."""
        for name in ("processor", "platform", "packages"):
            if self.environment.get(name) != environment.get(name):
                yield name
