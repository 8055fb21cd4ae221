"""Which runtimes take this toolkit's bundles, how exact they are, and what they cost. Run it, from anywhere:

    python benchmarks/compatibility.py --environments FOLDER [--runtime NAME ...] [--json FILE] [--markdown FILE]

It needs `pip install 'causalrn[export]'`, Python's venv, npm for onnxruntime-node, and about two hours the first time:
every runtime is installed, pinned, in an environment of its own in FOLDER, and runs every kind of bundle in a process
of its own, without this toolkit (compatibility_runner.py, .mjs). A step and a prefill graph answer one sequence from a
fresh state to the capacity; logits are compared with the float64 oracle, allowed is the float32 bound of `verify`.
Times are processor time of a step as a ratio to the newest onnxruntime's, which runs beside and takes turns.

With --runtime, numbers of other runtimes that FILE has stay there. --cases keeps the bundles for the next call: remove
them when an exporter has changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from compatibility_cases import CONVERTED, KINDS, NOT_CONVERTED, PROFILES, Expected, convert_case, pool_of, write_case
from compatibility_pages import NEWEST as NEWEST
from compatibility_pages import write_markdown
from compatibility_runtimes import RUNTIMES, Process, converter_of, environment_of, running
from interleaved import paired_ratio
from reporting import write_json

from causalrn.runtimes.bench.timing import turns
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import show_progress

TURNS = 7
"""Sequences of steps that a runtime and the newest onnxruntime run in turns; the ratio is their median."""


# --- numbers ----------------------------------------------------------------------------------------------------------


def judge(entries: Mapping[str, dict[str, Any]], out: Path, expected: Expected) -> None:
    """Add the error of what ran: relative to the largest logit, and as a part of what is allowed."""
    for graph, entry in entries.items():
        if entry["phase"] != "done":
            continue
        if (out / f"{graph}.npy").exists():
            logits = np.load(out / f"{graph}.npy").astype(np.float64)
        else:
            logits = np.array(json.loads((out / f"{graph}.json").read_text())).reshape(expected.logits.shape)
        off = np.abs(logits - expected.logits).max(-1)
        off = np.where(np.isfinite(off), off, np.inf)
        entry["error"] = float(off.max() / np.abs(expected.logits).max())
        entry["of_bound"] = float((off / expected.bounds).max())


def time_steps(candidate: Process, newest: Process) -> dict[str, Any]:
    """The candidate's step beside the newest onnxruntime's, in turns; empty where one of them does not run."""
    processes = {"candidate": candidate, "newest": newest}
    times: dict[str, list[float]] = {name: [] for name in processes}
    for name in turns(list(processes), TURNS):
        step_us = processes[name].step_us()
        if step_us is None:
            return {}
        times[name].append(step_us)
    ratio = paired_ratio(times, "candidate", "newest")
    return {"median_us": float(np.median(times["candidate"])), "of_newest": [ratio.low, ratio.median, ratio.high]}


def row_of(name: str, environment: Path, case: Path, out: Path, expected: Expected, newest: Process) -> dict[str, Any]:
    """What a runtime makes of a case."""
    with running(name, environment, case, out) as process:
        judge(process.entries, out, expected)
        process.entries["step"] |= time_steps(process, newest)
        return {graph: without_folder(entry, out) for graph, entry in process.entries.items()}


def without_folder(entry: dict[str, Any], out: Path) -> dict[str, Any]:
    """An entry whose words name files without the temporary folder in which they lay."""
    return {key: value.replace(f"{out}/case/", "") if isinstance(value, str) else value for key, value in entry.items()}


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where environments and cases are."""

    environments: Path
    cases: Path

    def case(self, kind: str, profile: str) -> Path:
        folder = self.cases / profile / kind.replace(", ", "-").replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def measure_graphs(names: list[str], kind: str, profile: str, places: Places) -> Iterator[dict[str, Any]]:
    """Rows of the runtimes that take ONNX graphs."""
    names = [name for name in names if RUNTIMES[name].conversion is None]
    newest = environment_of(NEWEST, places.environments)
    if not names or newest is None:
        return
    case = places.case(kind, profile)
    expected = write_case(case, kind, profile)
    with (
        tempfile.TemporaryDirectory() as temporary,
        running(NEWEST, newest, case / "case", Path(temporary) / "newest") as beside,
    ):
        for index, name in enumerate(names):
            environment = environment_of(name, places.environments)
            if environment is not None:
                out = Path(temporary) / str(index)
                entries = row_of(name, environment, case / "case", out, expected, beside)
                yield {"kind": kind, "profile": profile, "runtime": name, **entries}


def measure_converted(names: list[str], kind: str, places: Places) -> Iterator[dict[str, Any]]:
    """Rows of the runtimes that have a target of their own, beside onnxruntime with a pool of the same kind."""
    newest = environment_of(NEWEST, places.environments)
    for name in names:
        conversion, environment = RUNTIMES[name].conversion, environment_of(name, places.environments)
        if conversion is None or environment is None or newest is None or kind in NOT_CONVERTED:
            continue
        converter = converter_of(conversion, places.environments)
        if converter is None:
            continue
        case = places.case(kind, "portable")
        expected = write_case(case, kind, "portable")
        folder = case / "-".join(filter(None, (conversion.target, conversion.backend)))
        pool = pool_of(kind)
        problem = convert_case(folder, case, conversion, converter, pool)
        row = {"kind": kind, "profile": CONVERTED, "runtime": name}
        if problem:
            yield row | {graph: {"phase": "load", "error": problem} for graph in ("step", "prefill")}
            continue
        with (
            tempfile.TemporaryDirectory() as temporary,
            running(NEWEST, newest, case / "case", Path(temporary) / "newest") as beside,
        ):
            yield row | row_of(name, environment, folder, Path(temporary) / "out", expected, beside)


def measure(names: list[str], profiles: list[str], kinds: list[str], places: Places) -> Iterator[list[dict[str, Any]]]:
    """The rows of one case after the other."""
    with show_progress("cases", len(kinds) * len(profiles)) as advance:
        for kind in kinds:
            for profile in profiles:
                advance(0, f"{kind}, {profile}")
                if profile == CONVERTED:
                    yield list(measure_converted(names, kind, places))
                else:
                    yield list(measure_graphs(names, kind, profile, places))
                advance(1)


def merged(report: dict[str, Any], earlier: Path | None) -> dict[str, Any]:
    """A report with what an earlier one has of other runtimes, kinds and profiles; in the order of the tables."""
    if earlier is None or not earlier.exists():
        return report
    known = json.loads(earlier.read_text())
    versions = known["runtimes"] | report["runtimes"]
    in_order = {name: versions[name] for name in RUNTIMES if name in versions}
    return with_rows(report | {"rows": known["rows"], "runtimes": in_order}, report["rows"])


def with_rows(report: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A report with more rows, in the place of those of the same runtime, kind and profile."""
    by_place = {place_of(row): row for row in (*report["rows"], *rows)}
    return report | {"rows": [by_place[place] for place in sorted(by_place)]}


def place_of(row: dict[str, Any]) -> tuple[int, int, int]:
    profiles = [*PROFILES, CONVERTED]
    return profiles.index(row["profile"]), [*KINDS].index(row["kind"]), [*RUNTIMES].index(row["runtime"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environments", type=Path, required=True, help="folder for one environment per runtime")
    parser.add_argument("--cases", type=Path, help="folder that keeps the bundles")
    parser.add_argument("--runtime", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES), help="only these")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="only these")
    profiles = [*PROFILES, CONVERTED]
    parser.add_argument("--profile", nargs="+", choices=profiles, default=profiles, help="only these")
    parser.add_argument("--json", type=Path, help="also write the numbers there, beside those of other runtimes")
    parser.add_argument("--markdown", type=Path, help="write docs/compatibility.md there")
    arguments = parser.parse_args()
    for name in arguments.runtime:
        if environment_of(name, arguments.environments.resolve()) is None:
            print(f"{name}: could not be installed here", file=sys.stderr)
    versions = {name: list(RUNTIMES[name].packages) for name in arguments.runtime}
    with tempfile.TemporaryDirectory() as temporary:
        places = Places(arguments.environments.resolve(), (arguments.cases or Path(temporary)).resolve())
        report: dict[str, Any] = {"machine": describe_environment(), "rows": [], "runtimes": versions}
        report = merged(report, arguments.json)
        for rows in measure(arguments.runtime, arguments.profile, arguments.kind, places):
            report = with_rows(report, rows)
            write_json(arguments.json, report)
    if arguments.markdown is not None:
        write_markdown(arguments.markdown, report)


if __name__ == "__main__":
    main()
