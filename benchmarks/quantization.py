"""What quantization costs and gains: every scheme at three sizes, calibration with and without state, long runs, speed.

    python benchmarks/quantization.py --folder /tmp/quantization      two cores, about 40 minutes, 15 of them training

It needs `pip install 'causalrn[export]'`. Models are trained into --folder and found there the next time. Parts, any of
them by --part:

schemes      trained exact models (E = 64, 128, 192; strings of 16 letters): size, accuracy on 2,000 strings, KL
             divergence, time per token, and whether `verify` passes at the scheme's own budget
calibration  w8a8 with limits from rollouts, and from steps whose state is zero, on models of several seeds: the claim
             that a zero state is not enough, put to the test, with 95 % confidence intervals
long         4,096 steps of a text, models without positions: what a scheme loses early and late
speed        a step of the linear readout, one thread, E = H = 192 and 768, random weights, in one interleaved run

The JSON is renewed after every row, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import pydoc_data.topics
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from interleaved import measure, median_step_us, paired_ratio
from models import unit_gain_model
from reporting import write_json

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.quantization import CALIBRATION_METHODS
from causalrn.calibration.evaluation import Measured, measure_baseline, measure_quantized, time_steps
from causalrn.calibration.observers import HistogramObserver, histogram_limits
from causalrn.calibration.rollouts import Prompts
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.calibration.table import calibrate
from causalrn.calibration.watching import opened_for_watching
from causalrn.export.onnx_exporter import export_onnx
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.comparison import compare_distributions
from causalrn.runtimes.progress import show_progress
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.task_accuracy import TaskAccuracy, free_running_accuracy
from causalrn.training.card import ModelCard, card_of
from causalrn.training.checkpoint import Checkpoint
from causalrn.training.tasks import Corpus
from causalrn.workflows.export_targets import export_bundle
from causalrn.workflows.verify import verify

TEXT = pydoc_data.topics.__file__
COPY = ("--task", "copy", "--length", "16")
PAPER = ("--preset", "paper", "--batch", "64", "--learning-rate", "1e-3", "--steps", "260", "--evaluate-every", "65")
STREAM = ("--task", "text", "--text", TEXT, "--positions", "none")
SEEDS = {"tiny-exact": (0, 1, 2, 3, 4), "tiny-exact-no-post-norm": (0, 1, 2)}
STUDENT_T = {5: 2.776, 3: 4.303}
"""By the number of seeds, what makes a 95 % interval of a standard error."""
RUNS = {
    **{
        f"{model}-{seed}": (
            *(*COPY, "--seed", str(seed), "--until", "0.999"),
            *(["--no-post-norm"] if model.endswith("post-norm") else []),
        )
        for model, seeds in SEEDS.items()
        for seed in seeds
    },
    "small-exact": (*COPY, "--preset", "small", "--batch", "64", "--steps", "500"),
    "paper-exact": (*COPY, *PAPER),
    "text-linear": (*STREAM, "--readout", "linear", "--length", "1024", "--batch", "8", "--steps", "600"),
    "text-linear-128": (*STREAM, "--readout", "linear", "--length", "128", "--steps", "600"),
    "text-exact": (*STREAM, "--readout", "exact", "--length", "128", "--steps", "300"),
}
SCHEMES = {
    "w8 (nbits)": Scheme("w8", "nbits"),
    "w8 (qdq)": Scheme("w8", "qdq"),
    "w4 (nbits)": Scheme("w4", "nbits"),
    "w4 (qdq)": Scheme("w4", "qdq"),
    "w8a8-dynamic": Scheme("w8a8-dynamic"),
    "w8a8": Scheme("w8a8"),
    "fp16": Scheme("fp16"),
    "pool16": Scheme("float32", pool="float16"),
    "pool8": Scheme("float32", pool="int8"),
    "w8 (nbits), pool8": Scheme("w8", "nbits", pool="int8"),
}
STRINGS, COMPARED = 2000, 16
CLAIM_STRINGS, CALIBRATION_SEQUENCES = 5000, 64
LONG_STEPS, STRETCHES = 4096, 8
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where models are trained, and found again")
    parser.add_argument("--part", choices=list(PARTS), action="append", help="only this; may be repeated")
    parser.add_argument("--json", type=Path, default=Path("docs/quantization.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "benchmark": "quantization",
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
    }
    if arguments.json.is_file():
        results |= json.loads(arguments.json.read_text())
    for part in arguments.part or PARTS:
        results[part] = []
        for row in PARTS[part](arguments.folder):
            results[part].append(row)
            write_json(arguments.json, results)
            print(part, row, flush=True)


def bundle_of(folder: Path, name: str) -> Bundle:
    """The bundle of a model, trained and exported where it is not there."""
    run, bundle = folder / name, folder / f"{name}-bundle"
    if not run.is_dir():
        command = [sys.executable, "-m", "causalrn", "train", *RUNS[name], "-o", str(run)]
        subprocess.run(command, check=True)
    if not bundle.is_dir():
        export_bundle(run, bundle, pool="growing", capacity=None, opset=23)
    return Bundle.open(bundle)


def quantized(source: Bundle, scheme: Scheme, folder: str) -> Bundle:
    if scheme.name == "w8a8" and not scheme.limits:
        task = card_of(source).task
        prompts = Prompts.of_task(task, CALIBRATION_SEQUENCES, 0, task.capacity)
        scheme = dataclasses.replace(scheme, limits=calibrate(source, prompts).limits("minmax"))
    return write_quantized(source, Path(folder), scheme)


def compare_schemes(folder: Path) -> Iterator[dict[str, Any]]:
    for name in ("tiny-exact-0", "small-exact", "paper-exact"):
        source = bundle_of(folder, name)
        task = card_of(source).task
        tokens, examples = task.draw("quantize", COMPARED, 0, 1).inputs, task.draw("quantize", STRINGS)
        with open_bundle(source) as session:
            baseline = measure_baseline(source, session, tokens, task, examples, None)
            yield {"model": name, "scheme": "float32", **figures(baseline.measured), "ratios": None}
            for title, scheme in SCHEMES.items():
                with tempfile.TemporaryDirectory() as place:
                    bundle = quantized(source, scheme, place)
                    with open_bundle(bundle) as other:
                        after = measure_quantized(bundle, other, baseline)
                        times = time_steps(session, other, tokens)
                    report = verify(bundle.path, checkpoint=folder / name, samples=1000, runtime="onnxruntime").report
                before = baseline.measured
                yield {
                    "model": name,
                    "scheme": title,
                    **figures(after),
                    "worst_unit": after.worst_unit,
                    "verify_passed": report.passed,
                    "verify_failed": [f"{r.level}, {r.runtime}: {r.summary}" for r in report.results if not r.passed],
                    "points_lost": 100 * (before.free_running.accuracy - after.free_running.accuracy),
                    "ratios": {
                        "weights": after.weights_bytes / before.weights_bytes,
                        "pool": after.state_bytes_per_token / before.state_bytes_per_token,
                        "step": times.ratio,
                    },
                }


def figures(measured: Measured) -> dict[str, Any]:
    """The figures without the counts of single positions and lengths."""
    data = measured.entries()
    for name in ("teacher_forced", "free_running"):
        data[name] = {key: value for key, value in data[name].items() if not key.startswith("by_")}
    return data


def compare_calibration(folder: Path) -> Iterator[dict[str, Any]]:
    """w8a8 from rollouts and from zero states, the same sequences and positions; then all seeds together."""
    for model, seeds in SEEDS.items():
        rows = [row for seed in seeds for row in calibrated_rows(folder, model, seed)]
        yield from rows
        for how in dict.fromkeys((row["calibration"], row["method"]) for row in rows):
            mine = [row for row in rows if (row["calibration"], row["method"]) == how]
            yield {
                "model": model,
                "calibration": how[0],
                "method": how[1],
                "seeds": len(mine),
                "points_lost": mean_interval([row["float32"] - row["free_running"] for row in mine]),
                "kl_divergence": mean_interval([row["kl_divergence"] for row in mine]),
            }


def mean_interval(values: list[float]) -> dict[str, Any]:
    half = STUDENT_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def calibrated_rows(folder: Path, model: str, seed: int) -> list[dict[str, Any]]:
    rows = []
    source = bundle_of(folder, f"{model}-{seed}")
    task = card_of(source).task
    prompts = Prompts.of_task(task, CALIBRATION_SEQUENCES, seed, task.capacity)
    table, zero = calibrate(source, prompts, seed), zero_state_limits(source, prompts)
    tokens, examples = task.draw("quantize", COMPARED, seed, 1).inputs, task.draw("quantize", CLAIM_STRINGS, seed)
    with open_bundle(source) as session:
        exact = session_logits(session, tokens)
        before = free_running_accuracy(session, task, examples, by_steps=True)
    for method in CALIBRATION_METHODS:
        for how, limits in (("rollouts", table.limits(method)), ("zero state", zero[method])):
            with tempfile.TemporaryDirectory() as place:
                bundle = write_quantized(source, Path(place), Scheme("w8a8", limits=limits))
                with open_bundle(bundle) as session:
                    kl = compare_distributions(session_logits(session, tokens), exact).kl_divergence
                    after = free_running_accuracy(session, task, examples, by_steps=True)
            rows.append(
                {
                    "model": model,
                    "seed": seed,
                    "calibration": how,
                    "method": method,
                    "float32": 100 * before.accuracy,
                    "free_running": 100 * after.accuracy,
                    "interval_95": wilson_interval(after),
                    "kl_divergence": kl,
                }
            )
    return rows


def zero_state_limits(bundle: Bundle, prompts: Prompts) -> dict[str, dict[str, float]]:
    """By method: limits from steps whose state is zero, at every position of the same sequences."""
    observer, largest = HistogramObserver(), {}
    with opened_for_watching(bundle) as (session, names), session.watching(names) as values:
        batch = len(prompts.tokens)
        for position, column in enumerate(prompts.tokens.T):
            zeros = {
                tensor.name: np.zeros(tensor.sized(batch=batch, rows=position), np.float32)
                for tensor in session.spec.tensors
            }
            session.restore(Snapshot(position, batch, zeros, None, session.owner))
            session.step(column)
            for name in names:
                observer.observe(name, values[name])
                largest[name] = max(largest.get(name, 0.0), float(np.abs(values[name]).max()))
    searched = {method: histogram_limits(observer.histograms, method) for method in ("percentile", "entropy")}
    return {"minmax": largest, **searched}


def session_logits(session: Session, tokens: np.ndarray) -> np.ndarray:
    session.reset(len(tokens))
    return np.stack([session.step(column) for column in tokens.T], axis=1)


def wilson_interval(accuracy: TaskAccuracy) -> list[float]:
    """95 % confidence interval of a share, in percent (Wilson 1927)."""
    n, share, z = accuracy.counted, accuracy.accuracy, 1.96
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [100 * (centre - half) / (1 + z * z / n), 100 * (centre + half) / (1 + z * z / n)]


def compare_long_rollouts(folder: Path) -> Iterator[dict[str, Any]]:
    """The held-out part of the text, token by token."""
    data = Corpus.open(Path(TEXT)).part(held_out=True).astype(np.int64)
    tokens, following = data[None, :LONG_STEPS], data[1 : LONG_STEPS + 1]
    for name in ("text-linear", "text-linear-128", "text-expected"):
        source = bundle_of(folder, name)
        with open_bundle(source) as session:
            expected = session_logits(session, tokens)
        for title, scheme in SCHEMES.items():
            if scheme.pool != "float32" and not source.manifest.state.has_pool:
                continue
            limits = {}
            if scheme.name == "w8a8":
                windows = data[LONG_STEPS + 1 :][: 64 * 128].reshape(64, 128)
                limits = calibrate(source, Prompts.of_tokens(windows, None, "text")).limits("minmax")
            with tempfile.TemporaryDirectory() as place:
                bundle = write_quantized(source, Path(place), dataclasses.replace(scheme, limits=limits))
                with open_bundle(bundle) as session:
                    outputs = session_logits(session, tokens)
            parts = [
                compare_distributions(one, other)
                for one, other in zip(*(np.split(x, STRETCHES, axis=1) for x in (outputs, expected)), strict=True)
            ]
            yield {
                "model": name,
                "scheme": title,
                "kl_by_stretch": [part.kl_divergence for part in parts],
                "changed_by_stretch": [part.argmax_changes for part in parts],
                "bits_per_byte": bits_per_byte(outputs[0], following),
                "bits_per_byte_float32": bits_per_byte(expected[0], following),
            }


def bits_per_byte(logits: np.ndarray, following: np.ndarray) -> float:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-np.take_along_axis(log_probability, following[:, None], 1).mean() / math.log(2))


def compare_speed(folder: Path) -> Iterator[dict[str, Any]]:
    del folder
    for width in (192, 768):
        config = CausalRNConfig(
            vocabulary=29, embedding=width, hidden=width, blocks=12, capacity=2048, readout="linear"
        )
        checkpoint = Checkpoint(unit_gain_model(config), ModelCard(config, Alphabet("letters"), None), "0" * 64)
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            (root / "float32").mkdir()
            source = seal_bundle(root / "float32", export_onnx(checkpoint, root / "float32"))
            sessions = {"float32": open_bundle(source)}
            windows = np.random.default_rng(0).integers(0, 29, (16, 32))
            limits = calibrate(source, Prompts.of_tokens(windows, 256, "random")).limits("minmax")
            for title, scheme in SCHEMES.items():
                if scheme.pool != "float32":
                    continue
                (root / title).mkdir()
                scheme = dataclasses.replace(scheme, limits=limits if scheme.name == "w8a8" else {})
                sessions[title] = open_bundle(write_quantized(source, root / title, scheme))
            candidates = {title: step_timer(session) for title, session in sessions.items()}
            with show_progress(f"E = H = {width}", REPEATS * len(candidates)) as advance:
                times = measure(candidates, REPEATS, advance)
            for title in candidates:
                ratio = paired_ratio(times, title, "float32")
                yield {
                    "width": width,
                    "scheme": title,
                    "step_us": statistics.median(times[title]),
                    "ratio": dataclasses.asdict(ratio),
                }


def step_timer(session: Session) -> Any:
    """A step at position 17, again and again."""
    session.prefill(np.arange(3, 20)[None])
    start, token = session.snapshot(), np.array([5])

    def sample() -> float:
        session.restore(start)
        return median_step_us(lambda: session.step(token), lambda: None, 0.05)

    return sample


PARTS = {
    "schemes": compare_schemes,
    "calibration": compare_calibration,
    "long": compare_long_rollouts,
    "speed": compare_speed,
}

if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
