"""What a step costs in a converted target's runtime, beside onnxruntime. Run it, from anywhere:

    python benchmarks/converted_steps.py litert|executorch [--scheme NAME ...] [--json FILE] [--repeats N]

It needs `pip install 'causalrn[litert]'` or `'causalrn[executorch]'` (see docs/litert.md, docs/executorch.md) and about
ten minutes, most of them conversions. Models of the paper's size (E = H = 192, 12 blocks; random weights of unit gain)
take single steps on one thread from the middle of a sequence: linear, and exact with a fixed pool of 128 positions.
Every bundle comes from the same RUN and was verified when it was exported; all sessions take turns; ratios are paired
within a turn, times are processor time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from interleaved import Spread, Verdict, measure, paired_ratio
from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table
from session_steps import sample_steps

import causalrn
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.progress import no_progress, show_progress
from causalrn.runtimes.session import Session
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint

CAPACITY, DEPTH, STEPS = 128, 64, 32
READOUTS = {"linear": {}, "exact": {"pool": "fixed"}}
"""And what their exports are asked for."""
TARGETS = {"litert": None, "executorch": 2.0}
"""At most how many times onnxruntime's time a step may take in float32; None where nothing was promised."""
BESIDE = "onnxruntime"


def open_candidates(readout: str, target: str, schemes: Sequence[str], folder: Path) -> dict[str, Session]:
    """A session per bundle of one RUN: onnxruntime's, the target's in float32, and quantized ones."""
    config = CausalRNConfig(
        vocabulary=29, embedding=192, hidden=192, blocks=12, capacity=CAPACITY, readout=readout, heads=1
    )
    run, options = folder / "run", READOUTS[readout]
    save_checkpoint(run, unit_gain_model(config), ModelCard(config), {})
    asked: dict[str, dict[str, Any]] = {BESIDE: {"target": "onnx"}, target: {"target": target}}
    asked |= {f"{target}, {scheme}": {"target": target, "scheme": scheme} for scheme in schemes}
    sessions = {}
    with show_progress(f"{readout}, exports", len(asked)) as advance:
        for index, (name, words) in enumerate(asked.items()):
            bundle = causalrn.export(run, output=folder / f"bundle{index}", progress=no_progress, **words, **options)
            sessions[name] = causalrn.open_session(bundle)
            advance(1)
    return sessions


def measure_readout(
    readout: str, target: str, schemes: Sequence[str], folder: Path, repeats: int
) -> list[dict[str, Any]]:
    """Rows of one readout: candidate, its time and its ratio to onnxruntime's."""
    candidates = {
        name: sample_steps(session, DEPTH, STEPS)
        for name, session in open_candidates(readout, target, schemes, folder).items()
    }
    with show_progress(f"{readout}, steps", repeats * len(candidates)) as advance:
        times = measure(candidates, repeats, advance)
    rows = []
    for name in candidates:
        row: dict[str, Any] = {"readout": readout, "candidate": name, "step_us": asdict(Spread.of(times[name]))}
        if name != BESIDE:
            verdict = Verdict(
                paired_ratio(times, name, BESIDE), TARGETS[target] if name == target else None, at_least=False
            )
            row |= {"ratio": asdict(verdict.ratio), "allowed": verdict.target_text, "verdict": verdict.word}
        rows.append(row)
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("readout", "candidate", "us", f"ratio to {BESIDE}", "quartiles", "allowed", "", box=None)
    for row in rows:
        ratio = row.get("ratio")
        shown = [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"] if ratio else ["", ""]
        step = f"{row['step_us']['median']:.0f}"
        table.add_row(row["readout"], row["candidate"], step, *shown, row.get("allowed", ""), row.get("verdict", ""))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=TARGETS, help="the converted target")
    parser.add_argument("--scheme", action="append", default=[], help="also quantized bundles of this scheme")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--repeats", type=int, default=21, help="turns per candidate (21)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for readout in READOUTS:
            place = Path(folder) / readout
            place.mkdir()
            rows += measure_readout(readout, arguments.target, arguments.scheme, place, arguments.repeats)
    print_rows(rows)
    write_json(arguments.json, {"machine": describe_environment(), "capacity": CAPACITY, "depth": DEPTH, "rows": rows})


if __name__ == "__main__":
    main()
