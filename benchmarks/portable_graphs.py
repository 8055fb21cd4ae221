"""What graphs for the widest use cost in onnxruntime, beside the usual ones. Run it, from anywhere:

    python benchmarks/portable_graphs.py [--json FILE] [--repeats N]

It needs `pip install 'causalrn[export]'` and about three minutes. Models of the paper's size (E = H = 192, 12 blocks)
take single steps on one thread at several depths: the default export (opset 23), `profile` portable (opset 17),
32-bit indices, and fixed pools that the caller writes or that the graph gives whole. The same RUN, the same session,
all candidates in turns; ratios are paired within a turn, times are processor time.
"""

from __future__ import annotations

import argparse
import tempfile
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
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint

CAPACITY = 256
DEPTHS = (16, 128)
EXPORTS: dict[str, dict[str, Any]] = {
    "default": {},
    "portable": {"profile": "portable"},
    "int32": {"index_type": "int32"},
    "fixed": {"pool": "fixed"},
    "fixed, portable": {"pool": "fixed", "profile": "portable"},
    "fixed, present": {"pool": "fixed", "present": True},
}
BESIDE = {
    "portable": "default",
    "int32": "default",
    "fixed, portable": "fixed",
    "fixed, present": "fixed",
}
TARGET = 1.25
"""At most how many times the default graph's time."""
LEAST_STEPS = 20


def measure_readout(readout: str, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Rows of one readout: depth, candidate, its time and its ratio to what it stands beside."""
    config = CausalRNConfig(
        vocabulary=29, embedding=192, hidden=192, blocks=12, capacity=CAPACITY, readout=readout, heads=1
    )
    save_checkpoint(folder / "run", unit_gain_model(config), ModelCard(config), {})
    names = [name for name in EXPORTS if readout == "exact" or not name.startswith("fixed")]
    sessions = {
        name: causalrn.open_session(causalrn.export(folder / "run", output=folder / name, **EXPORTS[name]))
        for name in names
    }
    rows: list[dict[str, Any]] = []
    for depth in DEPTHS:
        candidates = {name: sample_steps(session, depth, LEAST_STEPS) for name, session in sessions.items()}
        with show_progress(f"{readout}, depth {depth}", repeats * len(candidates)) as advance:
            times = measure(candidates, repeats, advance)
        for name in names:
            row: dict[str, Any] = {"readout": readout, "depth": depth, "graph": name}
            row["step_us"] = asdict(Spread.of(times[name]))
            if name in BESIDE:
                ratio = paired_ratio(times, name, BESIDE[name])
                verdict = Verdict(ratio, TARGET if "portable" in name else None, at_least=False)
                row |= {"beside": BESIDE[name], "ratio": asdict(ratio), "verdict": verdict.word}
            rows.append(row)
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("readout", "depth", "graph", "us", "ratio", "beside", f"<= {TARGET}", box=None)
    for row in rows:
        ratio = f"{row['ratio']['median']:.2f}" if "ratio" in row else ""
        step = f"{row['step_us']['median']:.0f}"
        table.add_row(
            row["readout"], str(row["depth"]), row["graph"], step, ratio, row.get("beside", ""), row.get("verdict", "")
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--repeats", type=int, default=21, help="turns per candidate (21)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for readout in ("exact", "linear"):
            place = Path(folder) / readout
            place.mkdir()
            rows += measure_readout(readout, place, arguments.repeats)
    print_rows(rows)
    write_json(arguments.json, {"machine": describe_environment(), "capacity": CAPACITY, "rows": rows})


if __name__ == "__main__":
    main()
