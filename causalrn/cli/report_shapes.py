"""What reports look like that commands put together from several objects: the types behind their schemas.

Nothing makes these objects; `tests/cli/test_json_reports.py` compares what commands write with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from causalrn.bundle.engine_spec import EngineSpec
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.resealing import Resealing
from causalrn.bundle.tolerances import Budget
from causalrn.calibration.table import CalibrationTable
from causalrn.calibration.table_entries import Ranges
from causalrn.cli.doctor_probe import Probe
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.parity.comparison import Agreement
from causalrn.runtimes.parity.entries import ReportEntry
from causalrn.runtimes.parity.report import Sha256, VerifiedBundle, VerifyReport


class TaskFigures(ReportEntry, frozen=True):
    """Accuracy on a task: counts, shares from 0 to 1, and (counted, right) by position and by length of an answer."""

    unit: str
    counted: int
    right: int
    tokens: int
    tokens_right: int
    loss: float | None
    by_position: tuple[tuple[int, int], ...]
    by_length: Mapping[str, tuple[int, int]]
    accuracy: float
    token_accuracy: float


class BundleFigures(ReportEntry, frozen=True):
    """One bundle of a quantization; SQNR in decibel by block, null where there is no error."""

    weights_bytes: int
    bundle_bytes: int
    state_bytes_per_token: int
    teacher_forced: TaskFigures | None
    free_running: TaskFigures | None
    agreement: Agreement
    sqnr_db: Mapping[str, float | None]


class PairedRatio(ReportEntry, frozen=True):
    """After / before within each turn: the median, and quartiles."""

    median: float
    low: float
    high: float


class StepTimes(ReportEntry, frozen=True):
    """Medians of a step of either bundle, in microseconds."""

    before_us: float
    after_us: float
    paired: PairedRatio


class Ratios(ReportEntry, frozen=True):
    """After / before."""

    weights_bytes: float
    bundle_bytes: float
    state_bytes_per_token: float | None
    step_us: float


class SensitivityRow(ReportEntry, frozen=True):
    """What quantizing one part alone does to the logits."""

    unit: str
    parts: tuple[str, ...]
    kl_divergence: float | None
    argmax_changes: float | None
    sqnr_db: float | None


class QuantizeJson(ReportEntry, frozen=True):
    """A quantization: what it saves, what it loses, whether it may be kept."""

    report: Literal["causalrn-quantize"]
    version: Literal[1]
    passed: bool
    faults: tuple[str, ...]
    source: VerifiedBundle
    quantization: Quantization
    against: str
    measured_on: str
    step_times: StepTimes
    before: BundleFigures
    after: BundleFigures
    ratios: Ratios
    budget: Budget
    sensitivity: tuple[SensitivityRow, ...]
    states: Mapping[str, Ranges]
    notes: tuple[str, ...]


class CompileJson(ReportEntry, frozen=True):
    """Engines that were compiled; bytes and layers by graph."""

    report: Literal["causalrn-compile"]
    version: Literal[1]
    source: VerifiedBundle
    bundle_sha256: Sha256
    model: str
    precision: str
    describe: str
    engine: EngineSpec
    size_bytes: Mapping[str, int]
    layers: Mapping[str, int]
    capacity: int | None
    seconds: float
    golden: bool
    executed: Literal[False]


class ResealJson(ReportEntry, frozen=True):
    """A reseal: whether there are new hashes, what had changed, and the verification that decided it."""

    report: Literal["causalrn-reseal"]
    version: Literal[1]
    resealed: bool
    what: Resealing
    verification: VerifyReport


class DoctorGroup(ReportEntry, frozen=True):
    """What was tried for one purpose."""

    name: str
    probes: tuple[Probe, ...]


class DoctorJson(ReportEntry, frozen=True):
    """What works on a machine; `works` by command, `machine` where it was measured."""

    report: Literal["causalrn-doctor"]
    version: Literal[1]
    passed: bool
    causalrn: str
    environment: Mapping[str, Any]
    works: Mapping[str, bool]
    groups: tuple[DoctorGroup, ...]
    machine: Machine | UnsetType = UNSET


class InspectedState(ReportEntry, frozen=True):
    """A state in words: rows of (tensor, shape, update), bytes by tokens seen."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    bytes: Mapping[str, int]


class InspectedCertificate(ReportEntry, frozen=True):
    """A certificate, and why it does not hold where it does not."""

    holds: bool
    faults: tuple[str, ...]
    issued: str
    report: VerifyReport


class InspectJson(ReportEntry, frozen=True):
    """What a RUN or a bundle holds (`about`, `model`, `state`), or a calibration table (`calibration`, `limits`)."""

    report: Literal["causalrn-inspect"]
    version: Literal[1]
    about: Mapping[str, str] | UnsetType = UNSET
    model: Mapping[str, Any] | UnsetType = UNSET
    state: InspectedState | UnsetType = UNSET
    certificate: InspectedCertificate | UnsetType = UNSET
    calibration: CalibrationTable | UnsetType = UNSET
    limits: Mapping[str, Mapping[str, float]] | UnsetType = UNSET


class GenerateFileJson(ReportEntry, frozen=True):
    """Generation over a file: how many lines, and what their answers depend on."""

    report: Literal["causalrn-generate-file"]
    version: Literal[1]
    output: str
    lines: int
    errors: int
    resumed_lines: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    tokens_per_s: float
    belongs: Mapping[str, Any]
