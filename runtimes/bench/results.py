"""What a benchmark found: a row per candidate and workload, and what follows from the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from causalrn.runtimes.bench.cost import Call
from causalrn.runtimes.bench.growth import Growth, fit_growth
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.timing import Spread

BENCH_VERSION = 1
_LEAST_DEPTHS = 4
"""A line through fewer points says nothing about its residuals."""
_LEAST_BYTES, _MOST_US = 64_000, 1e15


@dataclass(frozen=True)
class Workload:
    """What is timed: `tokens` at once into a fresh state ("prefill"), or one by one from `depth` on ("decode")."""

    kind: str
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
        status: "measured"; "failed", or "skipped" where it cannot be, as `reason` says.
        times_us: of one call, by repeat: a step of all sequences, or a whole prefill.
        ratio: of the times to those of the report's base, paired by repeat; None for itself, or where it has none.
        floor_us: what the call takes at the least; None where it is not known.
        formula_bytes: of the state at that depth, by the state contract.
        state_bytes: of the state that the runtime handed out.
        resident_bytes: by how much the process grew with it; None where the system does not say.
        peak_bytes: the most memory of the process, everything included.
    """

    name: str
    runtime: str
    threads: int
    model: str
    workload: Workload
    status: str = "measured"
    reason: str = ""
    times_us: tuple[float, ...] = ()
    ratio: Spread | None = None
    floor_us: float | None = None
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

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        data = asdict(self)
        data |= data.pop("workload")
        data["times_us"] = list(self.times_us)
        if self.status == "measured":
            data |= {"time_us": asdict(self.time_us), "tokens_per_s": self.tokens_per_s}
            data |= {"share_of_floor": self.share_of_floor, "noisy": self.time_us.noisy}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Read :meth:`to_json`'s form back.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        numbers = [data[name] for name in ("tokens", "depth", "batch")]
        values = {name: data[name] for name in cls.__dataclass_fields__ if name != "workload"}
        words = [data["kind"], *(values[name] for name in ("name", "runtime", "model", "status", "reason"))]
        if not all(type(number) is int for number in (*numbers, values["threads"])):
            raise TypeError("counts that are no whole numbers")
        if not all(isinstance(word, str) for word in words) or not isinstance(values["times_us"], list):
            raise TypeError("names or times of another type")
        values["times_us"] = tuple(_positive(time) for time in values["times_us"])
        floor, ratio = values["floor_us"], values["ratio"]
        values["floor_us"] = None if floor is None else _positive(floor)
        if ratio is not None:
            values["ratio"] = Spread(*(_positive(ratio[key]) for key in ("median", "low", "high")))
        return cls(workload=Workload(data["kind"], *numbers), **values)


def _positive(number: Any) -> float:
    if type(number) not in (int, float) or not 0 < number < _MOST_US:
        raise ValueError(f"{number!r} is no time")
    return float(number)


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
        exit_code: 0, or that of the first failure.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    base: str = ""
    floors: dict[int, Machine] = field(default_factory=dict)
    no_floor: dict[int, str] = field(default_factory=dict)
    load_ms: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    exit_code: int = 0

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

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "report": "causalrn-bench",
            "version": BENCH_VERSION,
            "settings": self.settings,
            "environment": self.environment,
            "base": self.base,
            "interrupted": self.interrupted,
            "noisy_rows": len(self.noisy),
            "load_ms": self.load_ms,
            "machine": {str(threads): machine.to_json() for threads, machine in self.floors.items()},
            "no_floor": {str(threads): reason for threads, reason in self.no_floor.items()},
            "rows": [row.to_json() for row in self.rows],
            "growth": [growth.to_json() for growth in self.growths()],
        }
