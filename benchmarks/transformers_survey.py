"""Recurrent and hybrid architectures of transformers: does step by step equal parallel? One tiny random model of each.

    python benchmarks/transformers_survey.py --json docs/recurrent-models.json --page docs/recurrent-models.md

Every architecture runs in a process of its own, with a limit on its time, so that a crash is one row. The table goes
into the page between its two marker comments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' tiny models

from reporting import write_json

from causalrn.runtimes.environment import describe_environment
from tests.adapters.form_runs import SPLITS, VISIBLE
from tests.adapters.tiny_models import CONFIGURATIONS

HOUSE = Path(__file__).parents[1]
LIMIT_S = 120
BEGIN, END = "<!-- survey: begin -->", "<!-- survey: end -->"
COLUMNS = {
    "step": "step",
    "prefill_then_steps": "prefill, steps",
    "chunked_prefill": "chunked prefill",
    "padded": "left padding",
    "padded_then_steps": "padding, steps",
}


def survey_one(architecture: str) -> dict[str, Any] | str:
    """What transformers_checks.py prints, or why it printed nothing."""
    command = [sys.executable, str(HOUSE / "benchmarks" / "transformers_checks.py"), architecture]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "TORCH_LOGS": "-all"}
    try:
        result = subprocess.run(
            command, cwd=HOUSE, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"no result after {LIMIT_S} s"
    if result.returncode != 0:
        return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


class Notes:
    """Errors, numbered as they come; the same text has one number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"error {self.texts.index(text) + 1}"

    def lines(self) -> list[str]:
        texts = (text.replace("`", "'") for text in self.texts)
        return [f"{number}. `{text}`" for number, text in enumerate(texts, 1)]


def value_text(value: Any, notes: Notes) -> str:
    return notes.number(value) if isinstance(value, str) else f"{value:.0e}" if value else "0"


def pair_text(row: dict[str, Any], check: str, notes: Notes) -> str:
    """Float32 / float64, bold where float64 is not rounding."""
    single, double = row["float32"][check], row["float64"][check]
    if single == double and isinstance(single, str):
        return notes.number(single)
    text = f"{value_text(single, notes)} / {value_text(double, notes)}"
    return f"**{text}**" if isinstance(double, str) or not double <= VISIBLE else text


def cast_text(row: dict[str, Any], notes: Notes) -> str:
    if isinstance(row["casts"], str):
        return notes.number(row["casts"])
    return f"{sum(row['casts'].values())}, {value_text(row['cast_error'], notes)}"


def table_lines(rows: dict[str, Any]) -> list[str]:
    """The table and the errors under it."""
    notes = Notes()
    titles = ["architecture", "state", *COLUMNS.values(), "float64 as it is: step", "casts", "ONNX step"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for architecture, row in rows.items():
        if isinstance(row, str):
            cells = [notes.number(row)] + [""] * (len(titles) - 2)
        else:
            cells = [", ".join(row["state"]), *(pair_text(row, check, notes) for check in COLUMNS)]
            cells += [value_text(row["float64, as it is"]["step"], notes), cast_text(row, notes)]
            cells.append(value_text(row["onnx"], notes))
        lines.append(f"| {' | '.join([architecture, *cells])} |")
    return [*lines, "", *notes.lines(), "", "First differences, in float64:", "", *first_differences(rows)]


def first_differences(rows: dict[str, Any]) -> list[str]:
    """A line per architecture and split in which there is one."""
    return [
        f"- {architecture}, {COLUMNS[check]}: {row['first_difference'][check]}"
        for architecture, row in rows.items()
        if isinstance(row, dict)
        for check in SPLITS
        if row["first_difference"][check] and row["float64"][check] != row["first_difference"][check]
    ]


def replace_table(page: str, lines: list[str]) -> str:
    """The page with new lines between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def main() -> None:
    """Survey all, or those that are named; the others keep what the file has of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=list(CONFIGURATIONS), metavar="ARCHITECTURE")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    known = json.loads(options.json.read_text())["rows"] if options.json.exists() else {}
    for architecture in options.architectures:
        known[architecture] = survey_one(architecture)
        print(f"{architecture}: {json.dumps(known[architecture])[:200]}", flush=True)
    rows = {name: known[name] for name in CONFIGURATIONS if name in known}
    environment = describe_environment()
    environment["packages"]["transformers"] = importlib.metadata.version("transformers")
    write_json(options.json, {"environment": environment, "limit_s": LIMIT_S, "rows": rows})
    if options.page:
        options.page.write_text(replace_table(options.page.read_text(), table_lines(rows)))


if __name__ == "__main__":
    main()
