"""What the reports of `bench` look like: the types behind their schemas, as in :mod:`causalrn.cli.report_shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.profiling import NodeTime
from causalrn.runtimes.bench.timing import Spread
from causalrn.runtimes.parity.entries import ReportEntry


class BenchRow(ReportEntry, frozen=True):
    """One candidate on one workload; times in microseconds; the last four where it was measured."""

    name: str
    runtime: str
    threads: int
    model: str
    status: Literal["measured", "failed", "skipped"]
    reason: str
    times_us: tuple[float, ...]
    ratio: Spread | None
    floor_us: float | None
    formula_bytes: int | None
    state_bytes: int | None
    resident_bytes: int | None
    peak_bytes: int | None
    kind: Literal["decode", "prefill"]
    tokens: int
    depth: int
    batch: int
    time_us: Spread | UnsetType = UNSET
    tokens_per_s: float | UnsetType = UNSET
    share_of_floor: float | UnsetType | None = UNSET
    noisy: bool | UnsetType = UNSET


class GrowthRow(ReportEntry, frozen=True):
    """How a candidate's time per step grows with the rows that it reads: start + slope * rows."""

    name: str
    batch: int
    rows: tuple[float, ...]
    start_us: float
    slope_us: float
    residuals: tuple[float, ...]
    trend_us: float
    trend_error_us: float | None
    noise_us: float
    largest_residual: float
    rise_us: float
    kind: str


class ComparedRow(ReportEntry, frozen=True):
    """A row beside the same row of an earlier report; ratios are now / before."""

    name: str
    kind: Literal["decode", "prefill"]
    tokens: int
    depth: int
    batch: int
    before_us: float
    now_us: float
    ratio: float
    floor_ratio: float | None
    noisy: bool


class BenchJson(ReportEntry, frozen=True):
    """A benchmark; `machine` and `no_floor` by number of threads, `load_ms` by candidate."""

    report: Literal["causalrn-bench"]
    version: int
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    base: str
    interrupted: bool
    noisy_rows: int
    load_ms: Mapping[str, float]
    machine: Mapping[str, Machine]
    no_floor: Mapping[str, str]
    rows: tuple[BenchRow, ...]
    growth: tuple[GrowthRow, ...]
    comparisons: tuple[ComparedRow, ...]


class PredictedRow(ReportEntry, frozen=True):
    """A variant on a machine; microseconds by depth."""

    readout: str
    scheme: str
    pool_dtype: str
    weights_bytes: int
    bytes_per_token: int
    native_us: Mapping[str, float]
    onnxruntime_us: Mapping[str, float] | None
    fits: bool
    longest: int | None


class PredictedModel(ReportEntry, frozen=True):
    """A folder's model on a machine."""

    folder: str
    model: str
    capacity: int | None
    advice: tuple[str, ...]
    predictions: tuple[PredictedRow, ...]


class PredictJson(ReportEntry, frozen=True):
    """What steps will cost on a device, from its constants alone."""

    report: Literal["causalrn-predict"]
    version: Literal[1]
    machine: Machine
    models: tuple[PredictedModel, ...]


class ProfiledStep(ReportEntry, frozen=True):
    """A bundle's step at a depth, node by node; microseconds."""

    folder: str
    depth: int
    steps: int
    step_us: float
    nodes: tuple[NodeTime, ...]
    nodes_us: float
    by_block_and_role: Mapping[str, Mapping[str, float]]


class ProfileJson(ReportEntry, frozen=True):
    """Where the time of steps goes in onnxruntime."""

    report: Literal["causalrn-profile"]
    version: Literal[1]
    profiles: tuple[ProfiledStep, ...]
