"""How long the C cell takes, beside onnxruntime and beside what the machine can do at all. Run it, from anywhere:

    python benchmarks/native_latency.py [--json FILE] [--repeats N]

It needs `pip install 'causalrn[export]'`, gcc or clang, an x86 processor with AVX2, one quiet core and about four
minutes. For models of the paper's size (E = H = 192, 12 blocks, capacity 4,160), on one thread:

- a step with 16, 128, 1,024 and 4,096 tokens in the pool, of the linear readout, and of its quantized forms: the C
  session with AVX-512 and with AVX2 alone, against our onnxruntime session, which is the best graph that we know;
- the prefill of 512 tokens, against onnxruntime with the best of several chunk lengths;
- a Transformer of as many parameters (3 blocks) with its KV cache in onnxruntime's GroupQueryAttention.

Sessions are called from Python, as a user calls them, with everything that `Session.step` does; "C alone" is the C
function by itself. The floor is measured in the same run: reading all weights once from memory, and one exp per element
of the pool from the first-level cache, by loops that do nothing else; "share" is floor / C alone. Logits are checked
against the float64 oracle first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Spread, Verdict, measure, median_step_us, paired_ratio
from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table
from rival_transformer import SharedCacheLoop, grouped_query_transformer
from step_latency import check_loops, describe_machine, export_session, held_state
from step_loops import HeldState, Loop, SessionLoop

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.compiling.c_compiler import find_compiler
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.model.config import CausalRNConfig, ModelConfig, TransformerConfig
from causalrn.model.folding import fold
from causalrn.model.sequence_model import SequenceModel
from causalrn.runtimes.bench.measuring import Kernels
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint

CAPACITY, DEPTHS, PREFILL = 4160, (16, 128, 1024, 4096), 512
CHUNKS = (8, 16, 32, 64)
SIZES = {"vocabulary": 29, "embedding": 192, "capacity": CAPACITY}
ORT, TRANSFORMER = "onnxruntime", "Transformer"
ISAS = ("avx512", "avx2")

TARGETS = {
    ("exact", 16): (0.38, 0.42),
    ("exact", 128): (0.32, 0.40),
    ("exact", 1024): (0.27, 0.36),
    ("exact", 4096): (0.32, 0.42),
    ("linear", 128): (0.46, 0.50),
    ("linear w8a8-dynamic", 128): (0.20, 0.40),
    ("prefill", PREFILL): (0.32, 0.45),
}
"""C / onnxruntime, at most: with AVX-512, and with AVX2 alone."""
TRANSFORMER_TARGETS = {("exact", 16): 1.0, ("exact", 128): 1.0} | {("linear", depth): 1.0 for depth in DEPTHS}


@dataclass(frozen=True)
class Row:
    """One measurement: times by candidate, the floor by instruction set, ratios with their targets."""

    what: str
    depth: int
    times_us: dict[str, Spread]
    floor_us: dict[str, float]
    ratios: dict[str, Verdict]

    def share(self, isa: str) -> float:
        return self.floor_us[isa] / self.times_us[f"{isa}, alone"].median

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "depth": self.depth,
            "times_us": {name: asdict(spread) for name, spread in self.times_us.items()},
            "floor_us": self.floor_us,
            "share_of_floor": {isa: self.share(isa) for isa in self.floor_us},
            "ratios": {
                name: {**asdict(verdict.ratio), "target": verdict.target_text, "verdict": verdict.word}
                for name, verdict in self.ratios.items()
            },
        }


class ConstantLoop(SessionLoop):
    """What a step costs does not depend on the values of a state of constant size, so only the position goes back."""

    def undo(self) -> None:
        self.session._position -= 1


def sample_alone(session: NativeSession, state: HeldState, budget_s: float) -> Callable[[], float]:
    """The C function by itself."""

    def sample() -> float:
        SessionLoop(session).hold(state)
        session.step([3])  # tells C where everything is
        store, library = session._store, session._library
        past, target = store.arrays.addresses, store.target(reused=True).addresses
        return median_step_us(lambda: library.step(state.position, past, target), lambda: None, budget_s)

    return sample


def native_session(model: SequenceModel, folder: Path, isa: str, **options: Any) -> NativeSession:
    folder.mkdir(exist_ok=True)
    checkpoint = Checkpoint(model, ModelCard(model.config), "benchmark")
    session = NativeSession(seal_bundle(folder, export_c(checkpoint, folder, COptions(**options))), isa=isa)
    if session.isa != isa:
        raise SystemExit(f"this processor has no {isa}")
    return session


def sample_steps(loop: Loop, state: HeldState, budget_s: float) -> Callable[[], float]:
    def sample() -> float:
        loop.hold(state)
        return median_step_us(lambda: loop.step(3), loop.undo, budget_s)

    return sample


def sample_prefill(session: OnnxRuntimeSession | NativeSession, tokens: np.ndarray) -> Callable[[], float]:
    def sample() -> float:
        session.reset(1)
        start = time.perf_counter_ns()
        session.prefill(tokens)
        return (time.perf_counter_ns() - start) / 1000

    return sample


def model_of(kind: type[ModelConfig] = CausalRNConfig, **options: Any) -> SequenceModel:
    return unit_gain_model(kind(**{**SIZES, **options}))


class Benchmark:
    """All rows, one after another; what is compared runs in turns within a row."""

    def __init__(self, folder: Path, repeats: int, budget_s: float, advance: Callable[..., object]) -> None:
        self.folder, self.repeats, self.budget_s, self.advance = folder, repeats, budget_s, advance
        self.kernels = {isa: Kernels(isa=isa) for isa in ISAS}
        self.rng = np.random.default_rng(0)

    def rows(self) -> Iterator[Row]:
        models = {readout: model_of(readout=readout, hidden=192, blocks=12) for readout in ("exact", "linear")}
        transformer = model_of(TransformerConfig, hidden=768, blocks=3, heads=6)
        tokens = self.rng.integers(0, 29, (1, CAPACITY))
        rival = SharedCacheLoop(grouped_query_transformer(fold(transformer), CAPACITY), 6)
        with export_session(transformer, self.folder / "transformer")[1] as session:
            rivals = {depth: held_state(session, tokens, depth) for depth in DEPTHS}
        expected = transformer.oracle()(torch.from_numpy(tokens[:, :200]))[0].numpy()
        check_loops({TRANSFORMER: rival}, rivals[16], tokens, expected)
        for readout, model in models.items():
            base = export_session(model, self.folder / f"{readout}-onnx")[1]
            yield from self._steps(readout, model, base, tokens, (rival, rivals))
            if readout == "exact":
                yield self._prefill(model, base, tokens[:, :PREFILL])
            base.close()

    def _steps(self, readout: str, model: SequenceModel, base: OnnxRuntimeSession, tokens: np.ndarray, rival: Any):
        formats: dict[str, dict[str, Any]] = {readout: {}, f"{readout} w8": {"scheme": "w8"}}
        formats[f"{readout} w8a8-dynamic"] = {"scheme": "w8a8-dynamic"}
        formats |= {"exact pool8": {"pool_dtype": "int8"}} if readout == "exact" else {}
        expected = model.oracle()(torch.from_numpy(tokens[:, :200]))[0].numpy()
        for what, options in formats.items():
            sessions = {isa: native_session(model, self.folder / f"{what}-{isa}", isa, **options) for isa in ISAS}
            loop = SessionLoop if readout == "exact" else ConstantLoop
            loops: dict[str, SessionLoop] = {isa: loop(session) for isa, session in sessions.items()} | {
                ORT: loop(base)
            }
            if not options:
                check_loops(loops, held_state(base, tokens, 16), tokens, expected)
            for depth in DEPTHS if not options else (128, 1024) if readout == "exact" else (128,):
                samples = {}
                for name, each in loops.items():
                    state = held_state(each.session, tokens, depth)
                    samples[name] = sample_steps(each, state, self.budget_s)
                    if name in sessions:
                        samples[f"{name}, alone"] = sample_alone(sessions[name], state, self.budget_s)
                if not options:
                    samples[TRANSFORMER] = sample_steps(rival[0], rival[1][depth], self.budget_s)
                exps = depth * 192 * 12 if readout == "exact" else 12 * 384
                yield self._row(what, depth, samples, streamed_bytes(sessions["avx2"], model), exps)
            for session in sessions.values():
                session.close()

    def _prefill(self, model: SequenceModel, base: OnnxRuntimeSession, tokens: np.ndarray) -> Row:
        samples = {}
        for isa in ISAS:
            session = native_session(model, self.folder / f"exact-{isa}", isa)
            samples[isa] = samples[f"{isa}, alone"] = sample_prefill(session, tokens)
        best = {}
        for chunk in CHUNKS:
            base.prefill_chunk = chunk
            best[chunk] = min(sample_prefill(base, tokens)() for _ in range(2))
        base.prefill_chunk = min(best, key=best.__getitem__)
        samples[ORT] = sample_prefill(base, tokens)
        return self._row("prefill", PREFILL, samples, 0, 192 * 12 * PREFILL * (PREFILL + 1) // 2)

    def _row(self, what: str, depth: int, samples: dict[str, Callable[[], float]], streamed: int, exps: int) -> Row:
        self.advance(0, f"{what}, t = {depth}")
        floors: dict[str, Callable[[], float]] = {}
        for isa, kernels in self.kernels.items():
            floors[f"{isa} exps"] = lambda kernels=kernels: 1e12 / kernels.exps_per_s()  # of 1,000,000
            if streamed:
                floors[f"{isa} reading"] = lambda kernels=kernels: 1e6 * streamed / kernels.bytes_per_s(streamed)
        times = measure(samples | floors, self.repeats, lambda count: None)
        self.advance(1)
        floor_us = {
            isa: min(times.get(f"{isa} reading", [0.0])) + min(times[f"{isa} exps"]) * exps / 10**6 for isa in ISAS
        }
        ratios = {}
        for isa, target in zip(ISAS, TARGETS.get((what, depth), (None, None)), strict=True):
            ratios[f"{isa} / {ORT}"] = Verdict(paired_ratio(times, isa, ORT), target, at_least=False)
            if TRANSFORMER in times:
                target = TRANSFORMER_TARGETS.get((what, depth)) if isa == "avx512" else None
                ratios[f"{isa} / {TRANSFORMER}"] = Verdict(
                    paired_ratio(times, isa, TRANSFORMER), target, at_least=False
                )
        return Row(what, depth, {name: Spread.of(times[name]) for name in samples}, floor_us, ratios)


def streamed_bytes(session: NativeSession, model: SequenceModel) -> int:
    """Weights that a step reads: all of them but the tables of embeddings."""
    config = model.config
    return session.native.weights_bytes - 4 * config.embedding * (config.vocabulary + CAPACITY)


def print_rows(rows: list[Row]) -> None:
    console = Console(highlight=False, width=100)
    for isa in ISAS:
        table = Table(title=f"One call in microseconds, {isa}", title_justify="left", box=None, padding=(0, 1))
        for name in ("", "t", ORT, "C", "ratio", "target", "C alone", "floor", "share"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in rows:
            verdict = row.ratios[f"{isa} / {ORT}"]
            times = [f"{row.times_us[name].median:,.0f}" for name in (ORT, isa)]
            target = "" if verdict.target is None else f"{verdict.target:g} {verdict.word}"
            alone_us, share = f"{row.times_us[f'{isa}, alone'].median:,.0f}", f"{row.share(isa):.0%}"
            cells = [*times, f"{verdict.ratio.median:.3f}", target, alone_us, f"{row.floor_us[isa]:,.0f}", share]
            table.add_row(row.what, f"{row.depth:,}", *cells)
        console.print(table)
    peers = Table(title="Beside a Transformer of as many parameters", title_justify="left", box=None, padding=(0, 1))
    for name in ("", "t", TRANSFORMER, *(word for isa in ISAS for word in (isa, "ratio"))):
        peers.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in (row for row in rows if TRANSFORMER in row.times_us):
        cells = [f"{row.times_us[TRANSFORMER].median:,.0f}"]
        for isa in ISAS:
            ratio = row.ratios[f"{isa} / {TRANSFORMER}"].ratio.median
            cells += [f"{row.times_us[isa].median:,.0f}", f"{ratio:.2f}"]
        peers.add_row(row.what, f"{row.depth:,}", *cells)
    console.print(peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there as well")
    parser.add_argument("--repeats", type=int, default=11, help="how often the candidates take turns (default 11)")
    parser.add_argument("--budget-ms", type=float, default=60.0, help="time of one turn (default 60)")
    options = parser.parse_args()
    if options.repeats < 7:
        parser.error("--repeats: medians need at least 7")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, show_progress("native latency", 17) as advance:
        rows = list(Benchmark(Path(folder), options.repeats, options.budget_ms / 1000, advance).rows())
    print_rows(rows)
    settings = {"repeats": options.repeats, "threads": 1, "compiler": " ".join(find_compiler())}
    data = {"benchmark": "native_latency", "settings": settings, "machine": describe_machine()}
    write_json(options.json, {**data, "rows": [row.to_json() for row in rows]})


if __name__ == "__main__":
    main()
