"""Long runs through `verify`: 4,096 steps of an exact model, 100,000 of a linear one without positions. Run it:

    python benchmarks/long_verification.py [--exact-steps N] [--linear-steps N] [--json FILE]

It needs `pip install 'causalrn[export]'` and ten to fifteen minutes on two cores. Both models have the paper's size
(E = H = 192, 12 blocks) and weights of unit gain. Shown per model: how long all of `verify` took, peak memory of the
process, and what the level `drift` found.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.model.config import CausalRNConfig
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.export import export_bundle
from causalrn.workflows.verify import verify

_SECONDS = 600.0


def verify_model(config: CausalRNConfig, steps: int, folder: Path) -> dict:
    """Export and verify a model; times in seconds."""
    model = unit_gain_model(config)
    save_checkpoint(folder / "run", model, ModelCard(config), {})
    export_bundle(folder / "run", folder / "bundle", pool="growing", capacity=None, opset=23)
    started = time.perf_counter()
    bundle, run = folder / "bundle", folder / "run"
    report = verify(bundle, checkpoint=run, drift_steps=steps, time_budget=_SECONDS).report
    seconds = time.perf_counter() - started
    drifts = [result for result in report.results if result.level == "drift"]
    return {
        "model": config.describe(),
        "steps": steps,
        "passed": report.passed,
        "failed": [f"{result.level}: {result.summary}" for result in report.results if not result.passed],
        "verify_s": seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "drift": [{"form": result.runtime, "outcome": result.summary, "error": result.error} for result in drifts],
    }


def print_summary(rows: list[dict]) -> None:
    table = Table("model", "steps", "verify", "peak memory", "drift in onnxruntime", "verdict")
    for row in rows:
        outcome = next(drift for drift in row["drift"] if drift["form"] == "onnxruntime")
        table.add_row(
            row["model"].partition(",")[0],
            f"{row['steps']:,}",
            f"{row['verify_s']:.0f} s",
            f"{row['peak_memory_mb']:,.0f} MB",
            f"{outcome['outcome']}, at most {outcome['error']:.1e}",
            "pass" if row["passed"] else "; ".join(row["failed"]) or "fail",
        )
    Console(highlight=False, width=100).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact-steps", type=int, default=4096, help="default 4,096")
    parser.add_argument("--linear-steps", type=int, default=100_000, help="default 100,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    size = {"vocabulary": 29, "embedding": 192, "hidden": 192, "blocks": 12}
    cases = [
        (CausalRNConfig(readout="linear", positions="none", capacity=None, **size), options.linear_steps),
        (CausalRNConfig(readout="exact", capacity=options.exact_steps, **size), options.exact_steps),
    ]
    rows = []
    for config, steps in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(verify_model(config, steps, Path(folder)))
    print_summary(rows)
    write_json(options.json, {"benchmark": "long_verification", "rows": rows})
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
