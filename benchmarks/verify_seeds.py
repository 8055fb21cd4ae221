"""Good bundles of every target and scheme through `verify` with many seeds: how many pass. Run it:

    python benchmarks/verify_seeds.py [RUN] [--seeds N] [--only WORDS] [--json FILE]

It needs `pip install 'causalrn[export]'`, a C compiler, and for the web clang, lld and nodejs; half an hour to an
hour on two cores. Without RUN it trains an exact model to copy 8 letters. A seed decides the sequences, the chunks and
the walk of calls that are compared; a good bundle that fails with any of them is a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.runtimes.progress import show_progress
from causalrn.workflows.export import export
from causalrn.workflows.quantize import quantize
from causalrn.workflows.train import train
from causalrn.workflows.verify import verify

EXPORTS: dict[str, dict[str, Any]] = {
    "onnx growing": {},
    "onnx fixed": {"pool": "fixed"},
    "onnx concat": {"pool": "concat"},
    "c": {"target": "c"},
    "c w8": {"target": "c", "scheme": "w8"},
    "c w8a8-dynamic": {"target": "c", "scheme": "w8a8-dynamic", "pool8": True},
    "web": {"target": "web"},
    "web w8": {"target": "web", "scheme": "w8"},
}
QUANTIZED: dict[str, dict[str, Any]] = {
    "onnx w8": {"scheme": "w8"},
    "onnx w8 qdq": {"scheme": "w8", "form": "qdq"},
    "onnx w4": {"scheme": "w4"},
    "onnx w8a8-dynamic": {"scheme": "w8a8-dynamic"},
    "onnx w8a8": {"scheme": "w8a8"},
    "onnx fp16": {"scheme": "fp16"},
    "onnx pool8": {"pool8": True},
}


def makers(run: Path, folder: Path) -> dict[str, Callable[[], Path]]:
    """Per name of a bundle, what writes it."""

    def exported(name: str, options: dict[str, Any]) -> Callable[[], Path]:
        return lambda: export(run, output=folder / name.replace(" ", "-"), overwrite=True, **options).bundle.path

    def quantized(name: str, options: dict[str, Any]) -> Callable[[], Path]:
        def write() -> Path:
            source = exported("onnx growing", {})()
            return quantize(source, output=folder / name.replace(" ", "-"), samples=100, **options).bundle.path

        return write

    made = {name: exported(name, options) for name, options in EXPORTS.items()}
    return made | {name: quantized(name, options) for name, options in QUANTIZED.items()}


def verify_seeds(name: str, bundle: Path, run: Path, seeds: int) -> dict[str, Any]:
    """Verify one bundle with every seed."""
    faults: dict[int, list[str]] = {}
    with show_progress(name, seeds) as advance:
        for seed in range(seeds):
            verified = verify(bundle, checkpoint=run, seed=seed, samples=100)
            if not verified.passed:
                results = verified.report.results
                faults[seed] = [f"{row.level} {row.runtime}: {row.summary}" for row in results if not row.passed]
            advance(1)
    return {"bundle": name, "seeds": seeds, "passed": seeds - len(faults), "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a trained RUN")
    parser.add_argument("--seeds", type=int, default=20, help="default 20")
    parser.add_argument("--only", help="bundles whose name has these words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    options = parser.parse_args()
    table = Table("bundle", "seeds", "passed", "faults")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = options.run or Path(
            train(task="copy", length=8, steps=200, output=folder / "run", progress=show_progress)
        )
        for name, make in makers(run, folder).items():
            if options.only is None or options.only in name:
                row = verify_seeds(name, make(), run, options.seeds)
                rows.append(row)
                table.add_row(name, str(row["seeds"]), str(row["passed"]), str(row["faults"] or ""))
    Console(highlight=False, width=100).print(table)
    write_json(options.json, {"benchmark": "verify_seeds", "rows": rows})
    return 0 if all(row["passed"] == row["seeds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
