"""What takes part in a benchmark: something that decodes and prefills. Each lives in a process of its own."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.state_spec import StateSpec
from causalrn.bundle.targets import CHECKPOINT, Target, register_target
from causalrn.model.config import ModelConfig
from causalrn.model.state import derive_state
from causalrn.runtimes.bench.cost import StepCost
from causalrn.runtimes.bench.system import forget_peak, peak_bytes, resident_bytes
from causalrn.runtimes.bench.timing import step_times_us
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.opening import default_row, open_bundle, open_folder
from causalrn.runtimes.session import Session
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import Array, Snapshot

_TOKEN = 1


@dataclass(frozen=True)
class Facts:
    """What is known of a candidate.

    Attributes:
        model: one line for people.
        cost: of a token; None where the CPU's floor means nothing.
        state: its state contract; None where that is not the contract's (a history of tokens, a peer's own).
        capacity: most positions; None without a bound.
        max_batch: most sequences; None without a bound.
        load_ms: what opening it took.
    """

    model: str
    cost: StepCost | None
    state: StateSpec | None
    capacity: int | None
    max_batch: int | None = None
    load_ms: float = 0.0


@dataclass(frozen=True)
class MemoryUse:
    """What a state takes.

    Attributes:
        state_bytes: of its tensors as they are handed out.
        resident_bytes: by how much the process grew from a fresh state to this one.
    """

    state_bytes: int
    resident_bytes: int


class Candidate(ABC):
    """Something that takes one token per sequence after another."""

    facts: Facts

    @abstractmethod
    def hold(self, depth: int, batch: int) -> None:
        """Take up a state of so many tokens. Untimed."""

    @abstractmethod
    def step(self) -> None:
        """Take one token per sequence, as a decoding loop would. Timed."""

    @abstractmethod
    def prefill(self, tokens: int) -> None:
        """Take so many tokens at once. Timed."""

    @abstractmethod
    def state_bytes(self) -> int:
        """Of the state as it is."""

    def get_facts(self) -> Facts:
        """The same as the attribute, for who can only call."""
        return self.facts

    def decode_us(self, depth: int, batch: int, tokens: int, budget_s: float) -> float:
        """Median time of a step in microseconds: `tokens` steps from `depth`, again and again until time is up."""
        times: list[float] = []
        end = time.perf_counter() + budget_s
        while not times or time.perf_counter() < end:
            self.hold(depth, batch)
            times += step_times_us(self.step, tokens, max(end - time.perf_counter(), 0.0))
        return statistics.median(times)

    def prefill_us(self, batch: int, tokens: int, budget_s: float) -> float:
        """Median time in microseconds of taking so many tokens at once, from nothing."""
        times: list[float] = []
        end = time.perf_counter() + budget_s
        while not times or time.perf_counter() < end:
            self.hold(0, batch)
            times += step_times_us(lambda: self.prefill(tokens), 1, 0.0)
        return statistics.median(times)

    def measure_memory(self, depth: int, batch: int) -> MemoryUse:
        """What a state of so many tokens takes; whatever taking it up left behind has been there before."""
        self.hold(depth, batch)
        self.hold(0, batch)
        before = resident_bytes()
        self.hold(depth, batch)
        return MemoryUse(self.state_bytes(), resident_bytes() - before)

    def forget_peak(self) -> None:
        """Let :meth:`peak_bytes` begin anew."""
        forget_peak()

    def peak_bytes(self) -> int | None:
        """The most memory that the process had, Python and its libraries included."""
        return peak_bytes()


class SessionCandidate(Candidate):
    """A session over a checkpoint folder or a bundle.

    A state of D tokens is the state after one token with its rows repeated: a step takes as long whatever the rows
    hold, and a real prefill of all depths would take longer than the benchmark.
    """

    def __init__(
        self, session: Session, quantization: Quantization | None = None, load_ms: float = 0.0, *, on_cpu: bool = True
    ) -> None:
        self.session = session
        self._first: dict[int, Snapshot] = {}
        config = session.card.config
        state = session.spec if isinstance(session, CellSession) else None
        how = () if quantization is None else (quantization.scheme, quantization.form)
        cost = None
        if on_cpu and isinstance(config, ModelConfig):  # of others nobody knows what a step takes
            cost = StepCost.of(config, state or derive_state(config), *how)
        self.facts = Facts(config.describe(), cost, state, session.capacity, session.max_batch, load_ms)

    def hold(self, depth: int, batch: int) -> None:
        """A fresh state, or one whose rows are all the same."""
        if not depth:
            self.session.reset(batch)
            return
        if batch not in self._first:
            self.session.reset(batch)
            self.session.step([_TOKEN] * batch)
            self._first[batch] = self.session.snapshot()
        first = self._first[batch]
        self.session.reset(batch)  # two states at once would count as memory
        tensors = self._repeated(first.tensors, depth, batch)
        self.session.restore(Snapshot(depth, batch, tensors, first.logits, first.owner))

    def _repeated(self, tensors: Mapping[str, Array], depth: int, batch: int) -> dict[str, Array]:
        spec = self.facts.state
        if spec is None:  # the parallel form remembers the tokens themselves
            return {name: np.broadcast_to(value[:, :1], (batch, depth)) for name, value in tensors.items()}
        axes = {tensor.name: tensor.growth_axis for tensor in spec.tensors if tensor.is_pool}
        return {
            name: _with_rows(value, axes[name], depth) if name in axes else value for name, value in tensors.items()
        }

    def step(self) -> None:
        """As users do, with all checks."""
        self.session.step([_TOKEN] * self.session.batch)

    def prefill(self, tokens: int) -> None:
        """The same token again and again."""
        self.session.prefill(np.full((self.session.batch, tokens), _TOKEN))

    def state_bytes(self) -> int:
        """Of what a snapshot holds."""
        return sum(tensor.nbytes for tensor in self.session.snapshot().tensors.values())


def _with_rows(value: Array, axis: int, rows: int) -> Array:
    """The first row as often as asked for, a view."""
    shape = list(value.shape)
    shape[axis] = rows
    return np.broadcast_to(np.take(value, [0], axis=axis), shape)


def open_candidate(path: Path, row: Target | None, options: SessionOptions) -> SessionCandidate:
    """A checkpoint folder or a bundle as a candidate; PyTorch gets its number of threads.

    Args:
        row: of the table of targets, for it runs in a process that may not know it yet; None takes the
            folder's default.

    Raises:
        As :func:`causalrn.runtimes.open_session`.
    """
    start, quantization = time.perf_counter(), None
    row = row or default_row(path)
    if row.name == CHECKPOINT:
        import torch

        torch.set_num_threads(options.threads)
        session = open_folder(path, row.runtime)
    else:
        register_target(row)
        bundle = Bundle.open(path)
        session, quantization = open_bundle(bundle, options, row.runtime), bundle.manifest.quantization
    on_cpu = row.on_cpu and options.provider == "cpu"
    return SessionCandidate(session, quantization, (time.perf_counter() - start) * 1000, on_cpu=on_cpu)
