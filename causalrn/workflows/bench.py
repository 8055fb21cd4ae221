"""Measuring: from the command's options to rows, tables and files."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import is_bundle
from causalrn.bundle.files import written_file
from causalrn.bundle.json_values import json_text
from causalrn.bundle.manifest import Manifest
from causalrn.cli.bench_table import print_report
from causalrn.cli.console import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_INTERRUPTED,
    complain,
    console,
    progress,
)
from causalrn.errors import CausalRNError, InputError
from causalrn.runtimes.bench.entries import Entry, find_entries
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.running import Bench, BenchPlan
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.opening import RUNTIMES
from causalrn.training.checkpoint_folder import CheckpointFolder, is_checkpoint
from causalrn.workflows.bench_comparison import Comparison, Earlier, print_comparisons

_DEPTHS, _PREFILL = (16, 128, 1024), 512


def bench(folders: Sequence[Path], options: dict[str, Any]) -> int:
    """Measure, print, write; gives the exit code.

    Raises:
        InputError: options that fit no folder, or a file to compare with that is none.
    """
    unknown = [name for name in options["runtimes"] if name not in RUNTIMES]
    if unknown:
        raise InputError(f"runtime {unknown[0]!r} is unknown: choose one of {', '.join(RUNTIMES)}")
    before = None if options["against"] is None else Earlier.load(options["against"])
    entries = find_entries(folders, options["runtimes"], options["threads"] or (1,), options["provider"])
    workloads = choose_workloads(folders, options)
    plan = BenchPlan(workloads, options["repeats"], options["turn_ms"] / 1000)
    report = run_bench(entries, plan, {"folders": [str(folder) for folder in folders], "provider": options["provider"]})
    comparisons = [] if before is None else before.compare(report.measured)
    places = [options["json_path"], options["csv_path"], options["html"]]
    try:  # before anything is printed: whoever reads may be gone
        write_reports(report, comparisons, *places)
    finally:
        print_report(report)
        if before is not None:
            print_comparisons(before, comparisons, report.environment)
    for path in (path for path in places if path is not None):
        console().print(f"wrote {path}", soft_wrap=True)
    return _exit_code(report, comparisons, options["fail_above"])


def _exit_code(report: BenchReport, comparisons: Sequence[Comparison], fail_above: float | None) -> int:
    """The exit code, with its reason on standard error."""
    failed = dict.fromkeys(f"{row.name}: {row.reason}" for row in report.rows if row.status == "failed")
    for reason in failed:
        complain(reason)
    if report.interrupted:
        complain("interrupted")
        return EXIT_INTERRUPTED
    if not report.measured and not failed:
        complain(f"nothing could be measured: {report.rows[0].reason}")
        return EXIT_BAD_INPUT
    if fail_above is not None and not comparisons:
        complain("--fail-above: nothing here was measured before, so nothing could be compared")
        return EXIT_BAD_INPUT
    slower = [each for each in comparisons if fail_above is not None and not each.noisy and each.judged > fail_above]
    for each in slower:
        complain(f"{each.row.name}, {each.row.workload.title}: {each.judged:.2f} times what it took before")
    return report.exit_code or (EXIT_CHECK_FAILED if slower else 0)


def run_bench(entries: Sequence[Entry], plan: BenchPlan, settings: dict[str, Any]) -> BenchReport:
    """Measure with progress on standard error; Ctrl-C ends it, and the report says so."""
    asked = {"repeats": plan.repeats, "turn_ms": plan.turn_s * 1000, **settings}
    report = BenchReport(asked, describe_environment())
    report.environment["load_average"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with progress("measuring", len(entries) * plan.repeats * len(plan.workloads)) as advance:
        try:
            Bench(entries, plan, report, advance).run()
        except KeyboardInterrupt:
            report.interrupted = True
    return report


def choose_workloads(folders: Sequence[Path], options: dict[str, Any]) -> list[Workload]:
    """What to time: as asked for, or what the longest model takes.

    Raises:
        InputError: nothing is left to time.
    """
    longest, tokens = _longest_capacity(folders), options["decode"]
    fits = [depth for depth in _DEPTHS if longest is None or depth + tokens <= longest]
    depths = options["depths"] or fits or [0]
    prefill = options["prefill"] or (min(_PREFILL, longest or _PREFILL),)
    workloads = []
    for batch in sorted(options["batch"] or (1,)):
        workloads += [Workload("decode", tokens, depth, batch) for depth in sorted(depths) if tokens]
    for batch in sorted(options["batch"] or (1,)):  # last: what they leave behind would count as others' memory
        workloads += [Workload("prefill", count, 0, batch) for count in sorted(prefill) if count]
    if not workloads:
        raise InputError("--decode 0 and --prefill 0 leave nothing to measure: ask for one of them")
    return workloads


def _longest_capacity(folders: Sequence[Path]) -> int | None:
    """Of all models; None where one has no bound, or nothing is known of any."""
    found: list[int | None] = []
    for folder in folders:
        try:
            if is_bundle(folder):
                found.append(Manifest.read(folder).state.capacity)
            elif is_checkpoint(folder):
                found.append(CheckpointFolder.open(folder).card.config.capacity)
        except CausalRNError:
            continue  # its row says why
    return None if None in found else max((capacity for capacity in found if capacity is not None), default=None)


def write_reports(
    report: BenchReport,
    comparisons: Sequence[Comparison],
    json_path: Path | None,
    csv_path: Path | None,
    html: Path | None,
) -> None:
    """Write what was asked for; where one cannot be written, the others are.

    Raises:
        OSError: of the first that could not.
    """
    compared = [each.to_json() for each in comparisons]
    texts: list[tuple[Path | None, Callable[[], str]]] = [
        (json_path, lambda: json_text({**report.to_json(), "comparisons": compared})),
        (csv_path, lambda: _csv_text(report)),
        (html, lambda: _page_text(report, comparisons)),
    ]
    faults: list[OSError] = []
    for path, text in texts:
        if path is not None:
            try:
                with written_file(path) as partial:
                    partial.write_text(text(), encoding="utf-8", errors="replace")
            except OSError as error:
                error.filename = str(path)
                faults.append(error)
    if faults:
        raise faults[0]


def _page_text(report: BenchReport, comparisons: Sequence[Comparison]) -> str:
    from causalrn.workflows.pages.bench_page import render_page

    return render_page(report, comparisons)


def _csv_text(report: BenchReport) -> str:
    """A line per row; lists are left out."""
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
