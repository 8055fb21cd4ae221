"""What a quantized bundle costs and what it lost, beside the float32 bundle that it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.json_values import to_json
from causalrn.runtimes.bench.timing import Spread, paired_ratio
from causalrn.runtimes.parity.comparison import Agreement, compare_distributions
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.runtimes.session import Session
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.runtimes.task_accuracy import TaskAccuracy, free_running_accuracy, teacher_forced_accuracy
from causalrn.training.tasks import Examples, Task

_REPEATS, _TIMED_STEPS = 15, 16


@dataclass(frozen=True)
class Measured:
    """One bundle.

    Attributes:
        weights_bytes: of the file with the weights; of the largest graph where weights are inside.
        bundle_bytes: of all files but the golden vectors.
        state_bytes_per_token: that every token adds to the state; 0 where its size is constant.
        teacher_forced, free_running: accuracy on the task; None where it cannot be measured, or the model's own
            tokens are never fed back (text).
        agreement: of the distributions with the reference's.
        sqnr_db: by block, how much larger what the block writes to the residual stream is than its error, in decibel,
            errors that it inherits from earlier blocks included; last that of the logits. Infinite without an error;
            empty for the float32 bundle.
    """

    weights_bytes: int
    bundle_bytes: int
    state_bytes_per_token: int
    teacher_forced: TaskAccuracy | None
    free_running: TaskAccuracy | None
    agreement: Agreement
    sqnr_db: Mapping[str, float]

    @property
    def worst_unit(self) -> str:
        """The block, or the head, whose error is largest beside its output."""
        return min(self.sqnr_db, key=lambda unit: self.sqnr_db[unit], default="")

    def entries(self) -> dict[str, Any]:
        """The figures as JSON values, shares beside counts; infinite ones become null."""
        accuracies = {"teacher_forced": self.teacher_forced, "free_running": self.free_running}
        shares = {name: None if value is None else value.entries() for name, value in accuracies.items()}
        data: dict[str, Any] = to_json(self)
        return data | shares


@dataclass(frozen=True)
class Baseline:
    """What quantized bundles are compared with, measured once.

    Attributes:
        tokens: int64 [B, T], for distributions, SQNR and time.
        logits: [B, T, V], the reference: the oracle's, or the float32 bundle's.
        own_logits: the float32 bundle's.
        streams: the float32 bundle's, N + 1 arrays [B, T, E]; none where its runtime shows none.
        task, examples: for accuracy; None where there are none.
        measured: the float32 bundle itself.
    """

    tokens: IntArray
    logits: FloatArray
    own_logits: FloatArray
    streams: Sequence[FloatArray]
    task: Task | None
    examples: Examples | None
    measured: Measured


def measure_baseline(
    bundle: Bundle,
    session: Session,
    tokens: IntArray,
    task: Task | None,
    examples: Examples | None,
    reference_logits: FloatArray | None,
    on_batch: Callable[[int], object] = lambda count: None,
) -> Baseline:
    """Measure the float32 bundle.

    Args:
        reference_logits: the oracle's for `tokens`; None takes the bundle's own.
    """
    run = run_in_chunks(session, tokens, [1] * tokens.shape[1], probe=bundle.manifest.shows_streams)
    logits = run.logits if reference_logits is None else reference_logits
    measured = Measured(
        *_sizes(bundle),
        *_accuracies(session, task, examples, on_batch),
        compare_distributions(run.logits, logits),
        {},
    )
    return Baseline(tokens, logits, run.logits, run.streams, task, examples, measured)


def measure_quantized(
    bundle: Bundle,
    session: Session,
    baseline: Baseline,
    on_batch: Callable[[int], object] = lambda count: None,
) -> Measured:
    """Measure a quantized bundle on what the baseline was measured on."""
    tokens = baseline.tokens
    run = run_in_chunks(session, tokens, [1] * tokens.shape[1], probe=bundle.manifest.shows_streams)
    return Measured(
        *_sizes(bundle),
        *_accuracies(session, baseline.task, baseline.examples, on_batch),
        compare_distributions(run.logits, baseline.logits),
        _sqnr_by_unit(run.streams, run.logits, baseline),
    )


def sqnr_db(signal: FloatArray, output: FloatArray) -> float:
    """Signal to quantization noise ratio in decibel: 10 log10(sum signal^2 / sum (output - signal)^2).

    Example:
        an error of a tenth of the signal everywhere is 20 dB
    """
    expected = signal.astype(np.float64)
    noise = float(np.square(output - expected).sum())
    power = float(np.square(expected).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(max(power, 1e-300) / noise))


def _sqnr_by_unit(streams: Sequence[FloatArray], logits: FloatArray, baseline: Baseline) -> dict[str, float]:
    """Of what each block adds to the stream, and of the logits."""
    ratios = {}
    for block in range(len(streams) - 1):
        expected = baseline.streams[block + 1] - baseline.streams[block]
        ratios[f"blocks.{block}"] = sqnr_db(expected, streams[block + 1] - streams[block])
    return {**ratios, "head": sqnr_db(baseline.own_logits, logits)}


def _accuracies(
    session: Session, task: Task | None, examples: Examples | None, on_batch: Callable[[int], object]
) -> tuple[TaskAccuracy | None, TaskAccuracy | None]:
    if task is None or examples is None:
        return None, None
    given = teacher_forced_accuracy(session, task, examples, on_batch)
    if not task.feeds_back:
        return given, None
    return given, free_running_accuracy(session, task, examples, on_batch, by_steps=True)


def _sizes(bundle: Bundle) -> tuple[int, int, int]:
    """Of the file with the weights, of all that computes, and of a token's state."""
    manifest = bundle.manifest
    weights = WEIGHTS_FILE if manifest.native is None else manifest.native.weights_name
    files = {weights, *(graph.file for graph in manifest.graphs.values())}
    files |= set(() if manifest.native is None else manifest.native.files)
    files |= {name for name in manifest.files if "/" in name}  # a graph that is a folder
    sizes = {name: manifest.files[name].size_bytes for name in files if name in manifest.files}
    return sizes.get(weights, max(sizes.values())), sum(sizes.values()), manifest.state.bytes_per_token


@dataclass(frozen=True)
class StepTimes:
    """Time of a step of one sequence: two bundles in turns, so that a busy machine slows both.

    Attributes:
        before_us, after_us: medians in microseconds.
        paired: after / before, turn by turn.
    """

    before_us: float
    after_us: float
    paired: Spread

    @property
    def ratio(self) -> float:
        """After / before: the median over the turns."""
        return self.paired.median

    @property
    def is_noise(self) -> bool:
        """Whether the turns do not tell the two apart."""
        return self.paired.low <= 1 <= self.paired.high


def time_steps(before: Session, after: Session, tokens: IntArray) -> StepTimes:
    """Time the steps in the middle of the first of `tokens`, two sessions in turns."""
    middle = max(1, (tokens.shape[1] - _TIMED_STEPS) // 2)
    timed, starts = tokens[0, middle : middle + _TIMED_STEPS], []
    times: dict[str, list[float]] = {"before": [], "after": []}
    for session in (before, after):
        session.reset(1)
        session.prefill(tokens[:1, :middle])
        starts.append(session.snapshot())
    sessions = list(zip(("before", "after"), (before, after), starts, strict=True))
    for repeat in range(_REPEATS + 1):  # the first one warms up
        for name, session, start in sessions if repeat % 2 else reversed(sessions):
            session.restore(start)
            began = time.perf_counter()
            for token in timed:
                session.step(token)
            times[name].append(1e6 * (time.perf_counter() - began) / len(timed))
    for session in (before, after):
        session.reset(1)
    kept = {name: values[1:] for name, values in times.items()}
    before_us, after_us = (float(np.median(values)) for values in kept.values())
    return StepTimes(before_us, after_us, paired_ratio(kept, "after", "before"))
