"""How long one step takes, beside the best rivals that can be written by hand. Run it, from anywhere:

    python benchmarks/step_latency.py [--json FILE] [--repeats N] [--with-parallel]

It needs `pip install 'causalrn[export]'`, one quiet core and about two minutes. It shows, for a model of the paper's
size (E = H = 192, 12 blocks, capacity 2,048) on one thread:

- what a step costs with 16, 128 and 1,024 tokens in the pool: our onnxruntime session, its graph alone, a graph built
  node by node (alone and in a minimal loop), a graph that grows its pools by Concat, and eager PyTorch: our cell, and
  a step written straight from the paper's formula;
- the same for the linear readout, against a graph that updates its state in place;
- the ratios, with the targets that the toolkit sets itself: met, missed, or unclear where the machine is too noisy.

Every candidate's logits are checked against the float64 oracle first. Times are microseconds: the median over
repeats, with half the distance of the quartiles. Exit code 0 whatever the numbers are.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import rival_graphs
import torch
from interleaved import Spread, Verdict, measure, median_step_us, paired_ratio
from reporting import write_json
from rich import box
from rich.console import Console
from rich.table import Table
from step_loops import (
    ConcatLoop,
    FormulaLoop,
    HeldState,
    InPlaceLinearLoop,
    Loop,
    NodeByNodeLoop,
    ParallelLoop,
    RawLoop,
    SessionLoop,
    load_graph,
)

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.export.onnx_exporter import export_onnx
from causalrn.model.cell import RecurrentCell
from causalrn.model.config import CausalRNConfig
from causalrn.model.folding import fold
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint

DEPTHS = (16, 128, 1024)
LINEAR_DEPTH = 128
_CHECKED_STEPS = 4

OURS, OURS_RAW = "our session", "our graph alone"
RIVAL, RIVAL_RAW = "node by node, loop", "node by node, alone"
CONCAT, PARALLEL = "Concat graph, loop", "parallel form"
OUR_CONCAT = "our session, concat"
CELL, FORMULA = "PyTorch, our cell", "PyTorch, formula"
IN_PLACE = "node by node, in place"
SHORT_NAMES = {
    OURS: "ours",
    OURS_RAW: "our graph",
    RIVAL: "node by node",
    RIVAL_RAW: "node by node",
    CONCAT: "Concat",
    OUR_CONCAT: "our concat",
    CELL: "PyTorch cell",
    FORMULA: "PyTorch",
    PARALLEL: "parallel form",
    IN_PLACE: "in place",
}

TARGETS = {
    (FORMULA, OURS): {128: (5.0, True)},
    (CELL, OURS): {128: (5.0, True)},
    (CONCAT, OURS): {16: (1.15, True), 128: (1.25, True), 1024: (1.25, True)},
    (OUR_CONCAT, OURS): {},
    (OURS, RIVAL): dict.fromkeys(DEPTHS, (1.1, False)),
    (OURS_RAW, RIVAL_RAW): dict.fromkeys(DEPTHS, (1.1, False)),
    (OURS, IN_PLACE): {LINEAR_DEPTH: (1.2, False)},
}
"""What is divided by what -> depth -> target, and whether the ratio should be at least that (or at most)."""


@dataclass
class Report:
    """Everything that was measured: per readout and depth the time of each candidate, and the verdicts."""

    times: dict[tuple[str, int], dict[str, Spread]] = field(default_factory=dict)
    verdicts: list[tuple[str, str, str, int, Verdict]] = field(default_factory=list)

    def add(self, readout: str, depth: int, times: dict[str, list[float]]) -> None:
        self.times[readout, depth] = {name: Spread.of(values) for name, values in times.items()}
        pairs = [pair for pair in TARGETS if times.keys() >= set(pair)]
        for above, below in [*pairs, *([(PARALLEL, OURS)] if PARALLEL in times else [])]:
            target, at_least = TARGETS.get((above, below), {}).get(depth, (None, True))
            verdict = Verdict(paired_ratio(times, above, below), target, at_least)
            self.verdicts.append((readout, above, below, depth, verdict))

    @property
    def noisy(self) -> bool:
        return any(spread.noisy for row in self.times.values() for spread in row.values())

    def to_json(self, repeats: int) -> dict:
        return {
            "benchmark": "step_latency",
            "settings": {"repeats": repeats, "threads": 1, "model": paper_model("exact").config.describe()},
            "machine": describe_machine(),
            "noisy": self.noisy,
            "times_us": [
                {"readout": readout, "depth": depth, "candidate": name, **asdict(spread)}
                for (readout, depth), row in self.times.items()
                for name, spread in row.items()
            ],
            "ratios": [
                {"readout": readout, "of": above, "to": below, "depth": depth, **asdict(verdict.ratio)}
                | {"target": verdict.target_text, "verdict": verdict.word}
                for readout, above, below, depth, verdict in self.verdicts
            ],
        }


def describe_machine() -> dict[str, str]:
    return {
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }


def paper_model(readout: str) -> SequenceModel:
    """The paper's size with weights of std 1 / sqrt(fan-in) and biases that are not zero."""
    torch.manual_seed(0)
    model = SequenceModel(CausalRNConfig(29, 192, 192, 12, 2048, readout=readout))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3)
    return model.eval()


def export_session(model: SequenceModel, folder: Path, pool: str = "growing") -> tuple[Bundle, OnnxRuntimeSession]:
    folder.mkdir()
    checkpoint = Checkpoint(model, ModelCard(model.config), "benchmark")
    bundle = seal_bundle(folder, export_onnx(checkpoint, folder, pool=pool))
    return bundle, OnnxRuntimeSession(bundle)


def held_state(session: OnnxRuntimeSession, tokens: np.ndarray, depth: int) -> HeldState:
    session.reset()
    if depth:
        session.prefill(tokens[:, :depth])
    return HeldState(tokens[:, :depth], session.snapshot())


def check_loops(loops: dict[str, Loop], state: HeldState, tokens: np.ndarray, expected: np.ndarray) -> None:
    """Let every loop take real steps from `state` and compare its logits with the oracle's [T, V]."""
    bound = TOLERANCES["float32", "onnxruntime"].relative
    first = state.position
    for name, loop in loops.items():
        loop.hold(state)
        for position in range(first, first + (1 if isinstance(loop, RawLoop) else _CHECKED_STEPS)):
            logits = loop.step(int(tokens[0, position])).reshape(-1)
            want = expected[position]
            error = float(np.abs(logits - want).max() / np.abs(want).max())
            if not error <= bound:
                raise SystemExit(f"{name}: logits at position {position} are off by {error:.1e}, more than {bound:.0e}")


def exact_loops(session: OnnxRuntimeSession, bundle: Bundle, model: SequenceModel, folder: Path) -> dict[str, Loop]:
    weights, capacity = fold(model), model.config.capacity
    rival = rival_graphs.node_by_node_exact(weights)
    ours = bundle.file(bundle.manifest.graphs["step_single"].file)
    return {
        OURS: SessionLoop(session),
        OURS_RAW: RawLoop(load_graph(ours)),
        RIVAL: NodeByNodeLoop(rival, capacity),
        RIVAL_RAW: RawLoop(load_graph(rival)),
        OUR_CONCAT: SessionLoop(export_session(model, folder / "concat", "concat")[1]),
        CONCAT: ConcatLoop(rival_graphs.concat_exact(weights), capacity),
        FORMULA: FormulaLoop(model),
        CELL: SessionLoop(RecurrentSession(RecurrentCell.from_model(model), ModelCard(model.config))),
    }


def linear_loops(session: OnnxRuntimeSession, model: SequenceModel) -> dict[str, Loop]:
    rival = rival_graphs.node_by_node_linear(fold(model))
    return {OURS: SessionLoop(session), IN_PLACE: InPlaceLinearLoop(rival, model.config.capacity)}


def time_loops(loops: dict[str, Loop], state: HeldState, repeats: int, budget_s: float, advance) -> dict:
    def sample(loop: Loop) -> float:
        loop.hold(state)
        return median_step_us(lambda: loop.step(3), loop.undo, budget_s)

    candidates = {name: (lambda loop=loop: sample(loop)) for name, loop in loops.items()}
    return measure(candidates, repeats, advance)


def run(repeats: int, budget_s: float, with_parallel: bool) -> Report:
    report = Report()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, show_progress("step latency", 30 * repeats + 2) as advance:
        for readout, depth, loops, state in cases(Path(folder), rng, with_parallel, advance):
            advance(0, f"{readout}, t = {depth}")
            report.add(readout, depth, time_loops(loops, state, repeats, budget_s, advance))
    return report


def cases(
    folder: Path, rng: np.random.Generator, with_parallel: bool, advance
) -> Iterator[tuple[str, int, dict[str, Loop], HeldState]]:
    """Each (readout, depth) with its checked loops and the state they start from."""
    for readout, depths in (("exact", DEPTHS), ("linear", (LINEAR_DEPTH,))):
        advance(1, f"{readout}: export and check")
        model = paper_model(readout)
        bundle, session = export_session(model, folder / readout)
        tokens = rng.integers(0, model.config.vocabulary, (1, max(depths) + _CHECKED_STEPS))
        expected = model.oracle()(torch.from_numpy(tokens))[0].numpy()
        loops = exact_loops(session, bundle, model, folder) if readout == "exact" else linear_loops(session, model)
        for depth in (0, *depths):
            state = held_state(session, tokens, depth)
            check_loops(loops, state, tokens, expected)
            if depth:
                parallel = (
                    {PARALLEL: ParallelLoop(model)} if with_parallel and (readout, depth) == ("exact", 128) else {}
                )
                yield readout, depth, loops | parallel, state


def print_report(report: Report) -> None:
    console = Console(highlight=False, width=80)
    console.print(times_table(report))
    console.print(ratios_table(report))
    console.print("Times in microseconds, with half the distance between quartiles; one thread.")
    if report.noisy:
        console.print("Some quartiles lie over 10 % apart: run again when the machine is quiet.")


def times_table(report: Report) -> Table:
    table = Table(title="One step, E = H = 192, 12 blocks", title_justify="left", box=box.SIMPLE)
    table.add_column("readout", no_wrap=True)
    table.add_column("candidate", no_wrap=True)
    for depth in DEPTHS:
        table.add_column(f"t = {depth:,}", justify="right", no_wrap=True)
    for readout in ("exact", "linear"):
        rows = {depth: row for (kind, depth), row in report.times.items() if kind == readout}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        for name in names:
            cells = [describe_time(rows.get(depth, {}).get(name)) for depth in DEPTHS]
            table.add_row(readout, name, *cells, end_section=name == names[-1])
    return table


def describe_time(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:,.0f} ± {(spread.high - spread.low) / 2:.0f}"


def ratios_table(report: Report) -> Table:
    table = Table(title="Ratios, paired within each repeat", title_justify="left", box=box.SIMPLE)
    for name in ("ratio", "t", "median", "quartiles", "target", ""):
        table.add_column(name, justify="right" if name in ("t", "median", "quartiles") else "left", no_wrap=True)
    shown = ""
    ordered = sorted(report.verdicts, key=lambda entry: (entry[0], entry[1], entry[2]))
    for readout, above, below, depth, verdict in ordered:
        label = f"{SHORT_NAMES[above]} / {SHORT_NAMES[below]}" + (", linear" if readout == "linear" else "")
        ratio = verdict.ratio
        quartiles = f"{ratio.low:.2f}-{ratio.high:.2f}"
        numbers = (f"{depth:,}", f"{ratio.median:.2f}", quartiles, verdict.target_text, verdict.word)
        table.add_row("" if label == shown else label, *numbers)
        shown = label
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--repeats", type=int, default=15, help="how often the candidates take turns (default 15)")
    parser.add_argument("--budget-ms", type=float, default=60.0, help="time of one turn (default 60)")
    parser.add_argument("--with-parallel", action="store_true", help="also the whole parallel form per token, t = 128")
    options = parser.parse_args()
    if options.repeats < 9:
        parser.error("--repeats: medians need at least 9")
    torch.set_num_threads(1)
    report = run(options.repeats, options.budget_ms / 1000, options.with_parallel)
    print_report(report)
    write_json(options.json, report.to_json(options.repeats))


if __name__ == "__main__":
    sys.exit(main())
