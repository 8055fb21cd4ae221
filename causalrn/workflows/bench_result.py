"""What a benchmark gives: rows, comparisons with an earlier run, a verdict, and files of them."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.runtimes.bench.report_file import report_json
from causalrn.runtimes.bench.results import BenchReport, Row
from causalrn.workflows.arguments import PathLike
from causalrn.workflows.bench_comparison import Comparison, Earlier, comparison_json
from causalrn.workflows.saving import JsonReport, save_text


@dataclass(frozen=True)
class BenchResult(JsonReport):
    """A benchmark, and how it compares.

    Attributes:
        report: a row per candidate and workload, the machine's floors, versions.
        earlier: what it was compared with; None without.
        comparisons: of the rows that the earlier report has, too.
        fail_above: how many times as long as before a row may take, floors taken out; None for any.
    """

    report: BenchReport
    earlier: Earlier | None = None
    comparisons: tuple[Comparison, ...] = ()
    fail_above: float | None = None

    @property
    def failures(self) -> list[str]:
        """What could not be opened or run, a line each with its reason."""
        failed = (row for row in self.report.rows if row.status == "failed")
        return list(dict.fromkeys(f"{row.name}: {row.reason.removeprefix(f'{row.name}: ')}" for row in failed))

    @property
    def slower(self) -> list[Comparison]:
        """Rows that take more than `fail_above` times as long as before, unless one of the two is noisy."""
        limit = self.fail_above
        return [] if limit is None else [each for each in self.comparisons if not each.noisy and each.judged > limit]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, was cut short or got slower than allowed; a gate that judges nothing fails."""
        compared = self.fail_above is None or not all(each.noisy for each in self.comparisons)
        whole = bool(self.report.measured) and not self.report.interrupted and not self.failures
        return whole and compared and not self.slower

    def to_json(self) -> dict[str, Any]:
        """The report and its comparisons as JSON values."""
        return {**report_json(self.report), "comparisons": [comparison_json(each) for each in self.comparisons]}

    def save_csv(self, path: PathLike) -> Path:
        """Write a line per row, lists left out.

        Raises:
            OSError: as :meth:`save_json`.
        """
        return save_text(path, lambda: _csv_text(self.report))

    def save_html(self, path: PathLike) -> Path:
        """Write tables and plots as one self-contained page; needs jinja2.

        Raises:
            OSError: as :meth:`save_json`.
        """

        def page() -> str:
            from causalrn.workflows.pages.bench_page import render_page

            return render_page(self.report, self.comparisons)

        return save_text(path, page)


def _csv_text(report: BenchReport) -> str:
    text = io.StringIO()
    fields = [field.name for field in dataclasses.fields(Row) if field.name not in ("workload", "times_us", "ratio")]
    names = ["kind", "tokens", "depth", "batch", "median_us", "low_us", "high_us", "ratio", "tokens_per_s"]
    writer = csv.DictWriter(text, [*fields[:4], *names, "share_of_floor", *fields[4:]], lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        line = {name: getattr(row, name) for name in fields} | dataclasses.asdict(row.workload)
        if row.status == "measured":
            time = row.time_us
            line |= {"median_us": time.median, "low_us": time.low, "high_us": time.high}
            line |= {"tokens_per_s": row.tokens_per_s, "share_of_floor": row.share_of_floor}
            line["ratio"] = None if row.ratio is None else row.ratio.median
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in line.items()})
    return text.getvalue()
