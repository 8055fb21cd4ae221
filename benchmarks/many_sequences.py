"""What many sequences at positions of their own cost in C, beside one at a time. Run it, from anywhere:

    python benchmarks/many_sequences.py [--json FILE] [--repeats N]

It needs `pip install 'causalrn[export]'`, gcc or clang, one quiet core and about three minutes. Models of the paper's
size (E = H = 192, 12 blocks), float32, one thread; all candidates take turns, times are processor time per token, and
ratios are paired within a turn:

- linear, 32 slots: a token in each by one call, against a session that takes one token at a time;
- exact, 16 slots at positions from 16 to 1,024: by one call, against the same slots one by one, and against a batch in
  lockstep at their mean position;
- linear, prompts of 32 lengths, 32 tokens after each: generated together, against one prompt after the other;
- the same slots in onnxruntime, against one at a time there: linear takes positions of rows in one call, exact one slot
  after the other.

What no number of sequences can go below is their products: on a processor with two fused units of 8 (AVX2) 24
microseconds per token at 3.5 GHz, with two of 16 (AVX-512) half of that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import Spread, Verdict, measure, paired_ratio
from models import unit_gain_model
from reporting import write_json
from rich.console import Console
from rich.table import Table

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes import Session, open_session
from causalrn.runtimes.environment import describe_environment
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint
from causalrn.workflows.export import export

CAPACITY = 2048
LINEAR_SLOTS, EXACT_SLOTS, FIRST, LAST = 32, 16, 16, 1024
LENGTHS, NEW_TOKENS = range(1, 33), 32
TARGETS = {
    "linear, 32 slots": ("one at a time", 6.0),
    "exact, 16 slots": ("one at a time", 1.25),
    "exact, 16 slots, lockstep": ("in lockstep", 1.0),
    "linear, 32 prompts": ("one by one", 4.0),
    "linear, 32 slots, onnxruntime": ("one at a time", 1.0),
    "exact, 16 slots, onnxruntime": ("one at a time", 1.0),
}
_SECONDS = 0.2
_Step = Callable[[], int]
"""Takes tokens, and gives how many."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        linear, exact = (bundle_of(readout, Path(temporary)) for readout in ("linear", "exact"))
        cases = {
            **linear_slots(linear, stack),
            **exact_slots(exact, stack),
            **linear_prompts(linear, stack),
            **onnxruntime_slots(Path(temporary), stack),
        }
        times: dict[str, dict[str, list[float]]] = {}
        with show_progress("many sequences", len(cases) * arguments.repeats * 2) as advance:
            for name, candidates in cases.items():
                samples = {title: (lambda step=step: token_us(step)) for title, step in candidates.items()}
                times[name] = measure(samples, arguments.repeats, advance)
    report = [row for name, measured in times.items() for row in rows_of(name, measured)]
    print_rows(report)
    write_json(arguments.json, {"environment": describe_environment(), "rows": report})


def bundle_of(readout: str, folder: Path) -> Bundle:
    """C source of a model of the paper's size."""
    config = CausalRNConfig(vocabulary=29, embedding=192, hidden=192, blocks=12, capacity=CAPACITY, readout=readout)
    run = folder / f"{readout}-run"
    save_checkpoint(run, unit_gain_model(config), ModelCard(config), {})
    place = folder / readout
    place.mkdir()
    return seal_bundle(place, export_c(load_checkpoint(run), place, COptions()))


def token_us(step: _Step) -> float:
    """Processor time per token, in microseconds; the median of calls that fill a moment."""
    step()
    times, end = [], time.perf_counter() + _SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.process_time_ns()
        tokens = step()
        times.append((time.process_time_ns() - start) / tokens / 1000)
    return float(np.median(times))


def onnxruntime_slots(folder: Path, stack: ExitStack) -> dict[str, dict[str, _Step]]:
    """Slots of onnxruntime, by readout."""
    opened = {}
    for readout in ("linear", "exact"):
        graphs = export(folder / f"{readout}-run", output=folder / f"{readout}-graphs")
        opened[readout] = [stack.enter_context(open_session(graphs, "onnxruntime")) for _ in range(3)]
    linear = linear_candidates(*opened["linear"][:2], stack)
    exact = exact_candidates(*opened["exact"], stack)
    del exact["in lockstep"]
    return {"linear, 32 slots, onnxruntime": linear, "exact, 16 slots, onnxruntime": exact}


def linear_slots(bundle: Bundle, stack: ExitStack) -> dict[str, dict[str, _Step]]:
    """32 slots by one call, and a session by itself."""
    session, lone = (stack.enter_context(NativeSession(bundle)) for _ in range(2))
    return {"linear, 32 slots": linear_candidates(session, lone, stack)}


def linear_candidates(session: Session, lone: Session, stack: ExitStack) -> dict[str, _Step]:
    """A token in each of 32 slots of one session, and in another by itself."""
    slots = stack.enter_context(session.slots())
    numbers = [slots.admit() for _ in range(LINEAR_SLOTS)]

    def together() -> int:
        if slots.position(numbers[0]) == CAPACITY:
            for number in numbers:
                slots.release(number)
            numbers[:] = [slots.admit() for _ in range(LINEAR_SLOTS)]
        slots.step(dict.fromkeys(numbers, 5))
        return LINEAR_SLOTS

    def alone() -> int:
        for _ in range(LINEAR_SLOTS):
            if lone.position == CAPACITY:
                lone.reset()
            lone.step([5])
        return LINEAR_SLOTS

    return {"together": together, "one at a time": alone}


def exact_slots(bundle: Bundle, stack: ExitStack) -> dict[str, dict[str, _Step]]:
    """16 slots at positions of their own by one call, the same one by one, and a batch in lockstep."""
    first, second, batch = (stack.enter_context(NativeSession(bundle)) for _ in range(3))
    steps = exact_candidates(first, second, batch, stack)
    return {
        "exact, 16 slots": {name: steps[name] for name in ("together", "one at a time")},
        "exact, 16 slots, lockstep": {name: steps[name] for name in ("together", "in lockstep")},
    }


def exact_candidates(first: Session, second: Session, batch: Session, stack: ExitStack) -> dict[str, _Step]:
    """16 slots of one session by one call, those of another one by one, and a third's batch at their mean position."""
    positions = np.linspace(FIRST, LAST, EXACT_SLOTS).astype(int)
    both = [stack.enter_context(session.slots()) for session in (first, second)]
    held: list[dict[int, Any]] = []
    for slots in both:
        numbers = [slots.admit() for _ in positions]
        slots.prefill({n: [5] * int(p) for n, p in zip(numbers, positions, strict=True)})
        held.append({number: slots.snapshot(number) for number in numbers})
    mean = int(positions.mean())
    batch.reset(EXACT_SLOTS)
    batch.prefill(np.full((EXACT_SLOTS, mean), 5))
    lockstep = batch.snapshot()

    def again(index: int) -> None:
        slots = both[index]
        if slots.position(max(held[index])) >= LAST + 32:
            for number, snapshot in held[index].items():
                slots.restore(number, snapshot)

    def together() -> int:
        again(0)
        both[0].step(dict.fromkeys(held[0], 5))
        return EXACT_SLOTS

    def one_by_one() -> int:
        again(1)
        for number in held[1]:
            both[1].step({number: 5})
        return EXACT_SLOTS

    def in_lockstep() -> int:
        if batch.position >= mean + 32:
            batch.restore(lockstep)
        batch.step([5] * EXACT_SLOTS)
        return EXACT_SLOTS

    return {"together": together, "one at a time": one_by_one, "in lockstep": in_lockstep}


def linear_prompts(bundle: Bundle, stack: ExitStack) -> dict[str, dict[str, _Step]]:
    """Generation after prompts of 32 lengths."""
    session = stack.enter_context(NativeSession(bundle))
    prompts = [np.full(length, 5) for length in LENGTHS]
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "stop_ids": ()}
    tokens = sum(LENGTHS) + len(prompts) * NEW_TOKENS

    def together() -> int:
        session.reset()
        for _ in session.generate(prompts, **options):
            pass
        return tokens

    def one_by_one() -> int:
        for prompt in prompts:
            session.reset()
            for _ in session.generate(prompt[None], **options):
                pass
        return tokens

    return {"linear, 32 prompts": {"together": together, "one by one": one_by_one}}


def rows_of(name: str, times: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """What was measured, and how many times more tokens go through together."""
    other, target = TARGETS[name]
    ratio = paired_ratio(times, other, "together")
    verdict = Verdict(ratio, target)
    yield {
        "case": name,
        "together_us": Spread.of(times["together"]).median,
        "against": other,
        "against_us": Spread.of(times[other]).median,
        "throughput": asdict(ratio),
        "target": target,
        "verdict": verdict.word,
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """One line per case."""
    table = Table("case", "together, us", "against", "us", "throughput", "target")
    for row in rows:
        ratio = row["throughput"]
        table.add_row(
            row["case"],
            f"{row['together_us']:.1f}",
            row["against"],
            f"{row['against_us']:.1f}",
            f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})",
            f">= {row['target']:g} ({row['verdict']})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
