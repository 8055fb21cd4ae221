"""What a benchmark found: a row per candidate and workload, and what follows from the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from causalrn.errors import CausalRNError
from causalrn.runtimes.bench.cost import Call
from causalrn.runtimes.bench.growth import Growth, fit_growth
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.timing import Measured, Spread

_LEAST_DEPTHS = 4
"""A line through fewer points tells nothing about its residuals."""
_LEAST_BYTES = 64_000


@dataclass(frozen=True)
class Workload:
    """What is timed: `tokens` at once into a fresh state ("prefill"), or one by one from `depth` on ("decode")."""

    kind: Literal["decode", "prefill"]
    tokens: int
    depth: int
    batch: int

    @property
    def title(self) -> str:
        """In words, e.g. "decode 16 at depth 1,024, batch 4"."""
        depth = f" at depth {self.depth:,}" if self.kind == "decode" else ""
        return f"{self.kind} {self.tokens:,}{depth}" + (f", batch {self.batch}" if self.batch > 1 else "")

    @property
    def held(self) -> int:
        """Tokens in the state whose memory is measured: where a decode begins, or a prefill ends."""
        return self.depth if self.kind == "decode" else self.tokens

    @property
    def call(self) -> Call:
        """One timed call: of a decode the one in the middle."""
        if self.kind == "prefill":
            return Call(self.tokens, 0, self.batch)
        return Call(1, self.depth + (self.tokens - 1) / 2, self.batch)


@dataclass(frozen=True)
class Row:
    """One candidate on one workload.

    Attributes:
        name: of the candidate.
        runtime: that ran it.
        threads: it had.
        model: in words.
        workload: what was timed.
        status: "measured"; "failed", or "skipped" where it cannot be, for the `reason`.
        times_us: of one call, by repeat: a step of all sequences, or a whole prefill.
        ratio: of the times to those of the report's base, paired by repeat; None for itself, or where it has none.
        floor_us: what the call takes at the least; None where it is not known.
        formula_bytes: of the state at that depth, by the state contract.
        state_bytes: of the state that the runtime handed out.
        resident_bytes: by how much the process grew with it; None where it is not known.
        peak_bytes: the most memory of the process, everything included.
    """

    name: str
    runtime: str
    threads: int
    model: str
    workload: Workload
    status: Literal["measured", "failed", "skipped"] = "measured"
    reason: str = ""
    times_us: tuple[Measured, ...] = ()
    ratio: Spread | None = None
    floor_us: Measured | None = None
    formula_bytes: int | None = None
    state_bytes: int | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes a row of another run the same row."""
        return self.name, self.runtime, self.threads, self.workload

    @property
    def time_us(self) -> Spread:
        """Median and quartiles over the repeats."""
        return Spread.of(self.times_us)

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences together."""
        work = self.workload
        return work.batch * (work.tokens if work.kind == "prefill" else 1) * 1e6 / self.time_us.median

    @property
    def memory_ratio(self) -> float | None:
        """Growth of the process over the contract's size; None where that is so small that single pages decide."""
        if self.resident_bytes is None or self.formula_bytes is None or self.formula_bytes < _LEAST_BYTES:
            return None
        return self.resident_bytes / self.formula_bytes

    @property
    def share_of_floor(self) -> float | None:
        """Floor over time: 1 is the best that this machine can do."""
        return None if self.floor_us is None else self.floor_us / self.time_us.median


@dataclass
class BenchReport:
    """All rows so far, in the order in which they were measured.

    Attributes:
        settings: what was asked for.
        environment: versions and machine, nothing that names it.
        base: name of the candidate that ratios relate to: the first that could be opened.
        floors: by number of threads, the best rates that the machine showed during the run.
        no_floor: by number of threads, why there is none, or none any more.
        load_ms: by candidate, what opening it took.
        interrupted: whether the run was cut short.
        fault: the first failure; None where nothing failed.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    base: str = ""
    floors: dict[int, Machine] = field(default_factory=dict)
    no_floor: dict[int, str] = field(default_factory=dict)
    load_ms: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    fault: CausalRNError | None = None

    @property
    def measured(self) -> list[Row]:
        """Rows with times."""
        return [row for row in self.rows if row.status == "measured"]

    @property
    def noisy(self) -> list[Row]:
        """Rows whose repeats disagree too much."""
        return [row for row in self.measured if row.time_us.noisy]

    def growths(self) -> list[Growth]:
        """A line through every candidate's time per step over the depth, where there are enough depths."""
        curves: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.measured:
            if row.workload.kind == "decode":
                curves.setdefault((row.name, row.workload.batch, row.workload.tokens), []).append(row)
        return [
            fit_growth(name, batch, [(row.workload.call.rows, row.times_us) for row in rows])
            for (name, batch, _), rows in curves.items()
            if len({row.workload.depth for row in rows}) >= _LEAST_DEPTHS
        ]
