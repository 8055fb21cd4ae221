"""docs/compatibility.md from the numbers of compatibility.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalrn.workflows.saving import save_text

NEWEST = "onnxruntime 1.32.0"
Row = dict[str, Any]
INTRODUCTION = """\
Measured: every runtime in an environment of its own, every kind of bundle, a step graph and a prefill graph
over one sequence to the capacity, the state handed on by a loop of a page (`benchmarks/compatibility_runner.py`).

A number is the largest error of a logit against the float64 oracle, relative to the largest logit, where it is within
the float32 bound that `verify` allows; bold where it is not; *no* where the graph does not load; *loads, no* where it
loads and cannot run. Behind it the time of a step as a ratio to the newest onnxruntime's, which takes turns with the
runtime (processor time, one thread, median of 7 paired ratios). Where the prefill graph fares otherwise, it is named.
Small models (E = H = 64, 4 blocks, 48 positions) but for the rows that say otherwise; next to no work at this size, so
that a ratio is mostly what a call costs, the runtime's Python interface included. An empty cell was not measured."""
PROFILES = {
    "portable": "`export --profile portable` (opset 17)",
    "default": "The default (opset 23)",
    "converted": "Targets of their own: `export --target litert`, `--target executorch`",
}
CONVERTED_NOTE = """\
The same checkpoints, converted from the recurrent cell and not from an ONNX graph. Pools are the target's own kind
where the row does not say: growing in ExecuTorch, fixed in LiteRT, which has no other."""
NOTES = {"converted": CONVERTED_NOTE}
CAUSES = """\
- MNN converts with an open number of rows counted as 1. A Transformer's step with a growing pool multiplies by a row of
  that length, which becomes a constant of one number: it runs at position 0 only. Its prefill has no such product.
- MNN computes `Gelu` (opset 20 and later), and a GELU that is written with its factor of 1/2 last, by an approximation
  that is off by 5e-4, whatever `precision` says. Below opset 20 `export` writes the factor first: MNN computes that as
  it stands, and onnxruntime fuses it all the same.
- TVM does not import a slice whose start is the negative of a number of rows, as steps with growing pools have it: take
  `--pool fixed`.
- MNN and IREE have no RMSNormalization (opset 23): take `--profile portable`, where it is written out.
- ncnn has no Gather by integers: look up `wte` and `wpe` on the host, and convert what is behind them with fp16 off."""
"""What is behind the messages, found by hand."""


def cell(row: Row) -> str:
    """A runtime's answer to one kind of bundle: its step, and what is different with its prefill."""
    step, prefill = row["step"], row["prefill"]
    text = outcome(step)
    if "of_newest" in step:
        text += f", {step['of_newest'][1]:.1f}x"
    if outcome_kind(prefill) != outcome_kind(step):
        text += f"; prefill {outcome(prefill)}"
    return text


def outcome_kind(entry: Row) -> str:
    if entry["phase"] != "done":
        return str(entry["phase"])
    return "right" if entry["of_bound"] <= 1 else "wrong"


def outcome(entry: Row) -> str:
    kind = outcome_kind(entry)
    if kind == "right":
        return f"{entry['error']:.1e}"
    return f"**off by {entry['error']:.1e}**" if kind == "wrong" else {"load": "no", "run": "loads, no"}[kind]


def table(rows: list[Row]) -> Iterator[str]:
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    by_place = {(row["kind"], row["runtime"]): row for row in rows}
    yield f"| bundle | {' | '.join(runtimes)} |"
    yield "|---" * (len(runtimes) + 1) + "|"
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = [cell(by_place[kind, name]) if (kind, name) in by_place else "" for name in runtimes]
        yield f"| {kind} | {' | '.join(cells)} |"


def sections(rows: list[Row]) -> Iterator[str]:
    """A table per profile that was measured."""
    for profile, title in PROFILES.items():
        chosen = [row for row in rows if row["profile"] == profile]
        if chosen:
            note = (*NOTES[profile].splitlines(), "") if profile in NOTES else ()
            yield from (f"## {title}", "", *note, *table(chosen), "")


def failures(rows: list[Row]) -> Iterator[str]:
    """What a runtime says where it fails: each message once, with the bundles that it is about."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for graph in ("step", "prefill"):
            entry = row[graph]
            if entry["phase"] != "done":
                key = row["runtime"], graph, shortened(str(entry["error"]))
                found.setdefault(key, []).append(f"{row['kind']} ({row['profile']})")
    yield "| runtime | graph | what it says | of |"
    yield "|---|---|---|---|"
    for (runtime, graph, message), kinds in found.items():
        some = ", ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")
        yield f"| {runtime} | {graph} | {message.replace('|', '/')} | {some} |"


def shortened(message: str) -> str:

    message = re.sub(r"/\S*/", "", message).replace("`", "'")
    message = re.sub(r"0x[0-9a-f]+", "0x...", re.sub(r"#\d+", "#N", message))
    return f"`{message[:180]}`" + (" ..." if len(message) > 180 else "")


def write_markdown(path: Path, report: dict[str, Any]) -> None:
    """Write the page, whole or not at all."""
    rows, lines = report["rows"], []
    lines += [
        "# Runtimes that take ONNX bundles",
        "",
        "<!-- written by benchmarks/compatibility.py -->",
        "",
        *INTRODUCTION.splitlines(),
        "",
        *sections(rows),
        "## What fails, in the runtime's words",
        "",
        *failures(rows),
        "",
        *CAUSES.splitlines(),
        "",
        "## Versions",
        "",
        *(f"- {name}: {', '.join(packages)}" for name, packages in report["runtimes"].items()),
        "",
    ]
    save_text(path, lambda: "\n".join(lines))
