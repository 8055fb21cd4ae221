"""Architectures of transformers through `verify_recurrent` and `export_recurrent`, one tiny random model of each.

    python benchmarks/transformers_verification.py --json docs/verified-models.json --page docs/recurrent-models.md

Every architecture runs in a process of its own, with a limit on its time. An export is compared with the float64 oracle
on this machine, in onnxruntime, within its bounds. The table goes into the page between its two marker comments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' tiny models

from reporting import write_json

import causalrn
from causalrn.runtimes.environment import describe_environment
from tests.adapters.tiny_models import CONFIGURATIONS, build_model

HOUSE = Path(__file__).parents[1]
LIMIT_S = 600
BEGIN, END = "<!-- verification: begin -->", "<!-- verification: end -->"
LEVELS = ("logits", "state", "split", "determinism")


def verify_one(architecture: str) -> dict[str, Any]:
    """Verdict, what failed, and what became of an export."""
    from causalrn.adapters.transformers import recurrent

    started = time.monotonic()
    found: dict[str, Any] = {"export": "not tried"}
    try:
        forms = recurrent(build_model(architecture))
        report = causalrn.verify_recurrent(forms, steps=24, drift_steps=24, time_budget=200).report
    except causalrn.CausalRNError as error:
        return found | {"verdict": "refused", "first": str(error), "seconds": time.monotonic() - started}
    failed = [result for result in report.results if not result.passed]
    found |= {"verdict": report.verdict, "failed": sorted({result.level for result in failed}), "first": ""}
    if report.attributions:
        found["first"] = report.attributions[0].verdict
    elif failed or report.problems:
        found["first"] = failed[0].summary if failed else report.problems[0]
    found["seconds"] = time.monotonic() - started
    found["export"] = export_one(forms)
    if isinstance(found["export"], str) and found["export"].startswith("a prefill"):
        without = export_one(replace(forms, prefill=None))
        found["export"] = without
    return found


def export_one(forms: Any) -> dict[str, Any] | str:
    """Errors of an exported bundle, with what is allowed; or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = causalrn.export_recurrent(forms, output=Path(folder) / "bundle")
            report = causalrn.verify(bundle, level=LEVELS)
        except causalrn.CausalRNError as error:
            return str(error)
    has_prefill = "prefill" in bundle.bundle.manifest.graphs
    rows = {result.level: result for result in report.report.results if result.runtime == "onnxruntime"}
    return {"passed": report.passed, "without_prefill": not has_prefill} | {
        name: [rows[name].error, rows[name].allowed] for name in LEVELS[:3]
    }


def in_its_own_process(architecture: str) -> dict[str, Any]:
    """What :func:`verify_one` gives, or why it gave nothing."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", architecture]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "TORCH_LOGS": "-all"}
    try:
        result = subprocess.run(
            command, cwd=HOUSE, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "none", "first": f"no result after {LIMIT_S} s", "export": "not tried"}
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        return {"verdict": "none", "first": reason, "export": "not tried"}
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def table_lines(rows: dict[str, Any]) -> list[str]:
    lines = [
        "| architecture | verdict | fails at | first difference | exported: logits, error (allowed) |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        export = row["export"]
        if isinstance(export, dict):
            error, allowed = export["logits"]
            without = ", without prefill" if export.get("without_prefill") else ""
            export = f"{'' if export['passed'] else 'FAIL: '}{error:.0e} ({allowed:.0e}){without}"
        cells = [name, row["verdict"], ", ".join(row.get("failed", [])), row.get("first", ""), export]
        lines.append(f"| {' | '.join(cell.replace('|', '/').replace('`', chr(39)) for cell in cells)} |")
    return lines


def main() -> None:
    """Verify all, or those that are named; the others keep what the file has of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=list(CONFIGURATIONS), metavar="ARCHITECTURE")
    parser.add_argument("--one", action="store_true", help="print the result of the first as JSON, in this process")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.one:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(json.dumps(verify_one(options.architectures[0])))
        return
    known = json.loads(options.json.read_text())["rows"] if options.json and options.json.exists() else {}
    for architecture in options.architectures:
        known[architecture] = in_its_own_process(architecture)
        print(f"{architecture}: {json.dumps(known[architecture])[:300]}", flush=True)
        rows = {name: known[name] for name in CONFIGURATIONS if name in known}
        environment = describe_environment()
        environment["packages"]["transformers"] = importlib.metadata.version("transformers")
        if options.json:
            write_json(options.json, {"environment": environment, "limit_s": LIMIT_S, "rows": rows})
    if options.page:
        page = options.page.read_text()
        before, _, rest = page.partition(BEGIN)
        options.page.write_text("\n".join([before + BEGIN, "", *table_lines(rows), "", END + rest.partition(END)[2]]))


if __name__ == "__main__":
    main()
