"""What record.py does: models, candidates, three runs, and the files that come of them."""

from __future__ import annotations

import argparse
import dataclasses
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from models import unit_gain_model
from peers import CachedTransformer, compiled_cell
from record_pages import write_pages
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.bundle.json_values import parse_json_object, to_json
from causalrn.bundle.targets import runtime_row
from causalrn.errors import CausalRNError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.web.web_exporter import WebOptions
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.runtimes.bench.candidates import Candidate, open_candidate
from causalrn.runtimes.bench.entries import Entry
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.measuring import measure_machine
from causalrn.runtimes.bench.prediction import Prediction, predict_all
from causalrn.runtimes.bench.report_file import report_json
from causalrn.runtimes.bench.results import BenchReport, Workload
from causalrn.runtimes.bench.running import BenchPlan
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.session_options import SessionOptions
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.bench import run_bench
from causalrn.workflows.bench_comparison import Earlier
from causalrn.workflows.compile import compile
from causalrn.workflows.export_targets import export_bundle, export_c_bundle, export_web_bundle
from causalrn.workflows.pages.figures import time_text

DEPTHS, PREFILL, DECODE = (16, 128, 1024, 4096), 512, 16
GROWTH_DEPTHS = (16, 256, 1024, 2048, 4096, 3072, 1536, 512, 128)
"""Up and down again: a machine that drifts meanwhile adds no slope."""
SIZES: dict[str, Any] = {"vocabulary": 29, "embedding": 192, "capacity": 4224}
MODELS: dict[str, ModelConfig] = {
    "exact": CausalRNConfig(**SIZES, hidden=192, blocks=12, readout="exact"),
    "linear": CausalRNConfig(**SIZES, hidden=192, blocks=12, readout="linear"),
    "transformer": TransformerConfig(**SIZES, hidden=768, blocks=3, heads=6),
    "linear transformer": TransformerConfig(**SIZES, hidden=768, blocks=3, heads=6, attention="linear"),
}
"""All have as many parameters in their blocks: 1,327,104, biases aside."""


class Folders:
    """Checkpoint folders and bundles of all models; what cannot be made here is missing, and its row has the reason."""

    def __init__(self, folder: Path, advance: Callable[..., object]) -> None:
        self.folder = folder
        for name, config in MODELS.items():
            model = unit_gain_model(config)
            save_checkpoint(folder / name, model, ModelCard(config), {})
        for name in MODELS:
            self._make(f"{name}, onnxruntime", advance, partial(export_bundle, pool="growing", capacity=None, opset=23))
        for name in ("exact", "linear"):
            self._make(f"{name}, C", advance, partial(export_c_bundle, options=COptions()))
            self._make(f"{name}, node", advance, partial(export_web_bundle, options=WebOptions()))
        self._make("exact, fixed", advance, partial(export_bundle, pool="fixed", capacity=None, opset=23))
        engine = self.folder / "exact, tensorrt"
        try:
            advance(1, engine.name)
            compile(self.folder / "exact, fixed", output=engine)
        except CausalRNError as error:
            print(f"{engine.name}: {error}")

    def _make(self, name: str, advance: Callable[..., object], export: Callable[[Path, Path], object]) -> None:
        advance(1, name)
        try:
            export(self.folder / name.split(",")[0], self.folder / name)
        except CausalRNError as error:
            print(f"{name}: {error}")

    def entry(self, name: str, threads: int = 1, runtime: str = "") -> Entry:
        """A bundle, or a checkpoint folder in a runtime."""
        path = self.folder / (name.split(",")[0] if runtime else name)
        names = {"C": "native"}
        own = runtime or names.get(name.split(", ")[1], name.split(", ")[1])
        row = runtime_row(runtime) if runtime else None
        factory = partial(open_candidate, path, row, SessionOptions(threads=threads))
        return Entry(name + (f", {threads} threads" if threads > 1 else ""), own, threads, factory)

    def all_entries(self) -> list[Entry]:
        """Every runtime, then the peers; ratios relate to the first."""
        entries = [
            self.entry(f"{readout}, {where}")
            for readout in ("exact", "linear")
            for where in ("C", "onnxruntime", "node")
        ]
        entries.append(self.entry("exact, tensorrt"))
        for readout in ("exact", "linear"):
            entries.append(self.entry(f"{readout}, PyTorch eager", runtime="recurrent"))
            entries.append(self._peer(f"{readout}, PyTorch compiled", partial(compiled_cell, self.folder / readout, 1)))
            entries.append(self.entry(f"{readout}, whole parallel form", runtime="parallel"))
        cached = partial(CachedTransformer, self.folder / "transformer")
        entries.append(self._peer("transformer, GroupQueryAttention", cached))
        entries.append(self.entry("linear transformer, onnxruntime"))
        return entries

    @staticmethod
    def _peer(name: str, factory: Callable[[], Candidate]) -> Entry:
        return Entry(name, name.split(", ")[1], 1, factory)


def measure(folders: Folders, repeats: int, quick: bool) -> dict[str, BenchReport]:
    """The three runs."""
    deepest = DEPTHS[:2] if quick else DEPTHS
    table = [*(Workload("decode", DECODE, depth, 1) for depth in deepest), Workload("prefill", PREFILL, 0, 1)]
    ours = [folders.entry(f"{r}, {where}") for r in ("exact", "linear") for where in ("C", "onnxruntime")]
    growth = [Workload("decode", DECODE, depth, 1) for depth in (GROWTH_DEPTHS[:4] if quick else GROWTH_DEPTHS)]
    scaling = [
        folders.entry(f"{r}, {where}", threads)
        for r in ("exact", "linear")
        for where in ("C", "onnxruntime")
        for threads in (1, 2)
    ]
    sizes = [Workload("decode", DECODE, 1024, batch) for batch in (1, 8)]
    runs = {"table": (folders.all_entries(), table), "growth": (ours, growth), "scaling": (scaling, sizes)}
    reports = {}
    for name, (entries, workloads) in runs.items():
        turns = 2 * repeats if name == "growth" else repeats  # of few candidates: noise would pass for growth
        reports[name] = run_bench(
            entries, BenchPlan(workloads, turns, 0.06), {"folders": [e.name for e in entries]}, show_progress
        )
        if reports[name].interrupted:
            break
    return reports


def load_earlier(path: Path) -> Earlier | None:
    """The table of the record before; None where there is none, or one that cannot be compared with."""
    try:
        return Earlier.of(parse_json_object(path.read_text(encoding="utf-8"), str(path))["table"], path)
    except (OSError, KeyError, CausalRNError) as error:
        print(f"nothing to compare with: {error}")
        return None


def tidy(report: BenchReport, folder: str) -> None:
    """Leave out what names this machine."""
    report.rows = [dataclasses.replace(row, reason=row.reason.replace(f"{folder}/", "")) for row in report.rows]
    report.environment["platform"] = f"{platform.system()} {platform.machine()}"


def compare_predictions(report: BenchReport, machine: Machine) -> list[dict[str, Any]]:
    """What is predicted from the machine's constants, beside medians."""
    depths = sorted({row.workload.depth for row in report.measured})
    found = []
    for readout in ("exact", "linear"):
        prediction: Prediction = predict_all(MODELS[readout], machine, depths)[0]
        for where, times in (("C", prediction.native_us), ("onnxruntime", prediction.onnxruntime_us or {})):
            for row in sorted(report.measured, key=lambda row: row.workload.depth):
                if row.name == f"{readout}, {where}":
                    measured, predicted = row.time_us.median, times[row.workload.depth]
                    entry = {"name": row.name, "depth": row.workload.depth, "predicted_us": predicted}
                    found.append({**entry, "measured_us": measured, "ratio": predicted / measured})
    return found


def print_rows(reports: Mapping[str, BenchReport], earlier: Earlier | None) -> None:
    """Every row's time, and of the table over its time in the record before."""
    table = Table("", "workload", "time", "now / before")
    compared = [] if earlier is None else earlier.compare(reports["table"].measured)
    ratios = {id(each.row): f"{each.ratio:.2f}" for each in compared}
    for row in (row for report in reports.values() for row in report.measured):
        table.add_row(row.name, row.workload.title, time_text(row.time_us.median), ratios.get(id(row), ""))
    Console(highlight=False, width=110).print(table)


def main(description: str | None) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder to write to (default docs)")
    parser.add_argument("--repeats", type=int, default=7, help="how often the candidates take turns (default 7)")
    parser.add_argument("--quick", action="store_true", help="shallow depths only: to try this program")
    options = parser.parse_args()
    if options.quick and options.output is None:
        parser.error("--quick needs --output: its figures are not for the docs")
    output = options.output or Path(__file__).parents[1] / "docs"
    path = output / "benchmarks.json"
    earlier = load_earlier(path)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        with show_progress("exporting", 9) as advance:
            folders = Folders(Path(temporary), advance)
        machine = measure_machine()
        reports = measure(folders, options.repeats, options.quick)
        for report in reports.values():
            tidy(report, temporary)
    record = {
        "report": "causalrn-benchmarks",
        "version": 1,
        "minutes": (time.monotonic() - started) / 60,
        "machine": to_json(machine),
        "predictions": compare_predictions(reports["growth"], machine) if "growth" in reports else [],
        **{name: report_json(report) for name, report in reports.items()},
    }
    print_rows(reports, earlier)
    if any(report.interrupted for report in reports.values()):
        raise SystemExit("interrupted: nothing was written")
    write_json(path, record)
    write_pages(output, record, reports)
