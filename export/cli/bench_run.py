"""Measuring: from the command's options to rows, tables and files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causalrn.errors import CausalRNError, InputError
from causalrn.export.cli.bench_table import print_report
from causalrn.export.cli.console import EXIT_INTERRUPTED, progress, write_json
from causalrn.export.cli.environment import describe_environment
from causalrn.files import parse_json_object, written_file
from causalrn.manifest import Manifest, is_bundle
from causalrn.run_folder import RunFolder, is_run
from causalrn.runtimes.bench.results import BENCH_VERSION, BenchReport, Row, Workload
from causalrn.runtimes.bench.running import Bench, BenchPlan, Entry, find_entries
from causalrn.runtimes.opening import RUNTIMES

_DEPTHS, _PREFILL = (16, 128, 1024), 512


def bench(folders: Sequence[Path], options: dict[str, Any]) -> int:
    """Measure, print, write; gives the exit code.

    Raises:
        InputError: options that fit no folder, or a file to compare with that is none.
    """
    unknown = [name for name in options["runtimes"] if name not in RUNTIMES]
    if unknown:
        raise InputError(f"runtime {unknown[0]!r} is unknown: choose one of {', '.join(RUNTIMES)}")
    before = None if options["against"] is None else load_rows(options["against"])
    if len(set(folders)) < len(folders):
        raise InputError("a folder is named twice: it would compete with itself")
    entries = find_entries(folders, options["runtimes"], options["threads"] or (1,), options["provider"])
    workloads = choose_workloads(folders, options)
    plan = BenchPlan(workloads, options["repeats"], options["turn_ms"] / 1000)
    report = run_bench(entries, plan, {"folders": [entry.name for entry in entries]})
    print_report(report, before)
    write_reports(report, options["json_path"], options["csv_path"], options["html"])
    return EXIT_INTERRUPTED if report.interrupted else report.exit_code


def run_bench(entries: Sequence[Entry], plan: BenchPlan, settings: dict[str, Any]) -> BenchReport:
    """Measure with progress on standard error; Ctrl-C ends it, and the report says so."""
    asked = {"repeats": plan.repeats, "turn_ms": plan.turn_s * 1000, **settings}
    report = BenchReport(asked, describe_environment())
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
    for batch in options["batch"] or (1,):
        workloads += [Workload("prefill", count, 0, batch) for count in sorted(prefill) if count]
        workloads += [Workload("decode", tokens, depth, batch) for depth in sorted(depths) if tokens]
    if not workloads:
        raise InputError("--decode 0 and --prefill 0 leave nothing to measure: ask for one of them")
    return workloads


def _longest_capacity(folders: Sequence[Path]) -> int | None:
    """Of all models; None where one has no bound, or nothing is known of any."""
    found: list[int | None] = []
    for folder in folders:
        try:
            if is_bundle(folder):
                found.append(Manifest.read(folder).state.tensors[0].capacity)
            elif is_run(folder):
                found.append(RunFolder.open(folder).card.config.capacity)
        except CausalRNError:
            continue  # its row says why
    return None if None in found else max((capacity for capacity in found if capacity is not None), default=None)


def load_rows(path: Path) -> dict[tuple[Any, ...], Row]:
    """Measured rows of an earlier report by what makes them the same row.

    Raises:
        InputError: a missing file, or something else than a report of this version.
        ConfigError: no JSON.
    """
    try:
        data = parse_json_object(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: no file that can be read: name one that `bench --json` wrote") from None
    if data.get("report") != "causalrn-bench" or data.get("version") != BENCH_VERSION:
        raise InputError(f"{path}: no report of this version's bench: name one that `bench --json` wrote")
    try:
        rows = [Row.from_json(row) for row in data["rows"]]
        return {row.key: row for row in rows if row.status == "measured" and row.time_us.median > 0}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: a malformed report ({error}): measure again") from None


def write_reports(report: BenchReport, json_path: Path | None, csv_path: Path | None, html: Path | None) -> None:
    """Write what was asked for."""
    data = report.to_json()
    write_json(json_path, data)
    if csv_path is not None:
        with written_file(csv_path) as partial:
            partial.write_text(_csv_text(report), encoding="utf-8", errors="replace")
    if html is not None:
        from causalrn.export.cli.bench_page import render_page

        with written_file(html) as partial:
            partial.write_text(render_page(report), encoding="utf-8", errors="replace")


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
        writer.writerow(line)
    return text.getvalue()
