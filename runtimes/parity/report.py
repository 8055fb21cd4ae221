"""The outcome of a verification as one object: what commands print, write as JSON and HTML, and certify."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
import psutil

from causalrn.bundle.json_values import json_schema
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.state_spec import StateSpec
from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.bundle.tolerances import Budget
from causalrn.compiling.processor import processor_family
from causalrn.runtimes.environment import package_version
from causalrn.runtimes.parity.block_reports import BlockReport
from causalrn.runtimes.parity.coverage import Coverage
from causalrn.runtimes.parity.entries import NULLABLE, ReportEntry
from causalrn.runtimes.parity.results import REFERENCE_LEVELS, Attribution, Level, LevelResult
from causalrn.training.card import ModelCard

Verdict = Literal["PASS", "FAIL", "compiled, not executed", "converted, not executed here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
PASS, FAIL, NOT_EXECUTED, CONVERTED = VERDICTS
"""The third is of engines; the last of graphs that a runtime of other systems runs, evaluated without it."""

_PACKAGES = ("causalrn", "numpy", "onnxruntime", "torch", "onnx", "tensorrt-rtx-cu13", "tensorrt", "openvino")

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class VerifiedBundle(ReportEntry, frozen=True):
    """What was verified: a bundle's folder and the SHA-256 of its manifest, or a model's name and its weights'."""

    path: str
    sha256: Sha256


class ReferenceSize(ReportEntry, frozen=True):
    """What was compared: what relative errors refer to.

    Attributes:
        sequences, steps: B and T.
        largest_logit: largest |logit| of the oracle.
        float64_recurrent_relative_error: largest difference of the float64 recurrent form's logits from the oracle's,
            relative to that.
    """

    sequences: int
    steps: int
    largest_logit: float
    float64_recurrent_relative_error: float


class Settings(ReportEntry, frozen=True):
    """What to repeat a verification with.

    Attributes:
        levels: that were asked for.
        runtimes: that were compared; the entry `forms` in JSON.
        seed: of tokens, chunkings and samples.
        provider: of onnxruntime.
        threads: of each session.
        gpu: that engines ran on; None where none did.
        time_budget_s: how long it was to take at most.
        budget: what a quantized form may lose; None judges by rounding.
    """

    levels: tuple[Level, ...]
    runtimes: tuple[str, ...] = msgspec.field(name="forms")
    seed: int
    provider: str
    threads: int
    gpu: str | None
    time_budget_s: float
    budget: Budget | None


class VerifyReport(ReportEntry, frozen=True, kw_only=True):
    """A verification, version 4. Made by :meth:`of`; `to_json` and `from_json` write and read it.

    Errors are relative to the largest |value| of a tensor, without a unit; steps count from 0.

    Attributes:
        passed: whether the bundle ran and is right.
        verdict: it passes if every result is within tolerance and nothing else is wrong.
        not_executed: why a compiled bundle could not run here; None where it ran.
        checkpoint_sha256: of the weights that it was compared with; None where golden vectors stood in for them.
        model, alphabet, task, known_by: the model card, see :attr:`card`.
        against: what it was compared with, for people.
        reference: what relative errors refer to.
        settings: what to repeat it with.
        environment: machine and versions.
        results: one per level and runtime.
        measured: what was measured with nothing to compare it with: neither passed nor failed, whatever its `passed`.
        attributions: for what failed, where it begins and whose fault it is.
        blocks: error bounds and conditions.
        not_checked: levels that were asked for and not reached, or not possible.
        notes: what a reader should know beside the results.
        problems: what is wrong beside the results; any problem fails the verification.
        coverage: what was executed, and what it says nothing of; None in reports of earlier versions, and of models.
        state: the state contract of a model that somebody has brought; None for bundles, whose manifest has it.
    """

    report: Literal["causalrn-verify"] = "causalrn-verify"
    version: Literal[4] = 4
    passed: bool
    verdict: Verdict
    not_executed: str | None
    bundle: VerifiedBundle
    checkpoint_sha256: Sha256 | None
    model: Mapping[str, Any]
    alphabet: str | None
    task: Mapping[str, Any] | None
    against: str
    reference: ReferenceSize
    settings: Settings
    environment: Mapping[str, str]
    results: tuple[LevelResult, ...]
    attributions: tuple[Attribution, ...]
    blocks: tuple[BlockReport, ...]
    not_checked: tuple[Level, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    known_by: KnownBy | None = None
    measured: tuple[LevelResult, ...] = ()
    coverage: Coverage | None = None
    state: StateSpec | None = None

    def __post_init__(self) -> None:
        is_converted = self.verdict == CONVERTED
        if self.verdict != _judge(self.results, self.problems, self.not_executed, is_converted=is_converted):
            raise ValueError(f"the verdict {self.verdict} does not follow from the results")
        if self.passed != (self.verdict == PASS):
            raise ValueError(f"passed is {self.passed}, and the verdict {self.verdict}")

    @classmethod
    def of(
        cls,
        bundle: VerifiedBundle,
        card: ModelCard,
        *,
        checkpoint_sha256: str | None,
        against: str,
        reference: ReferenceSize,
        settings: Settings,
        results: Sequence[LevelResult],
        attributions: Sequence[Attribution],
        blocks: Sequence[BlockReport],
        not_checked: Sequence[Level] = (),
        notes: Sequence[str] = (),
        problems: Sequence[str] = (),
        measured: Sequence[LevelResult] = (),
        not_executed: str = "",
        is_converted: bool = False,
        coverage: Coverage | None = None,
        state: StateSpec | None = None,
    ) -> VerifyReport:
        """Judge results: the report, with the verdict that follows from them, and this machine as its environment.

        The arguments are the attributes; `not_executed` is empty where the bundle ran, and `is_converted` says that its
        graphs were converted for a runtime of other systems.
        """
        verdict = _judge(results, problems, not_executed, is_converted=is_converted)
        return cls(
            passed=verdict == PASS,
            verdict=verdict,
            not_executed=not_executed or None,
            bundle=bundle,
            checkpoint_sha256=checkpoint_sha256,
            **card.fields(),
            against=against,
            reference=reference,
            settings=settings,
            environment=environment(),
            results=tuple(results),
            attributions=tuple(attributions),
            blocks=tuple(blocks),
            not_checked=tuple(not_checked),
            notes=tuple(notes),
            problems=tuple(problems),
            measured=tuple(measured),
            coverage=coverage,
            state=state,
        )

    @property
    def card(self) -> ModelCard:
        """The model that was verified.

        Raises:
            ConfigError: one that this version does not know.
        """
        data = {"model": self.model, "alphabet": self.alphabet, "task": self.task}
        return dataclasses.replace(ModelCard.from_entries(data, "the report"), known_by=self.known_by)

    @property
    def why_not_certified(self) -> str:
        """Why nothing can be certified; empty where it can."""
        if not self.passed:
            return "only what passes is certified"
        if self.state is not None:
            return "a model is no bundle"
        if all(runtime in checkpoint_runtimes() for runtime in self.settings.runtimes):
            return "the bundle itself was not run"
        compared = (result.subject for result in self.results if result.level in REFERENCE_LEVELS)
        if all(runtime in checkpoint_runtimes() for runtime in compared):
            return f"what the bundle gives was not compared: check one of {', '.join(REFERENCE_LEVELS)}, too"
        return ""


def _judge(
    results: Sequence[LevelResult], problems: Sequence[str], not_executed: str | None, *, is_converted: bool
) -> Verdict:
    if problems or not all(result.passed for result in results):
        return FAIL
    if not_executed:
        return CONVERTED if is_converted else NOT_EXECUTED
    return PASS if results else FAIL


def environment() -> dict[str, str]:
    """Machine and versions that a report was made with, in words."""
    versions = {name: package_version(name) or "not installed" for name in _PACKAGES}
    return {
        "machine": platform.machine(),
        "processor_family": processor_family(),
        "system": platform.system(),
        "cpus": str(psutil.cpu_count()),
        "python": platform.python_version(),
        **versions,
    }


def report_schema() -> dict[str, Any]:
    """The JSON Schema of a report's JSON."""
    return schema_of(VerifyReport, "report of causalrn-export verify")


def schema_of(kind: type[Any], title: str) -> dict[str, Any]:
    """The JSON Schema of a report of some kind. Entries with a default are always written: they are required."""
    schema = json_schema(kind, title)
    for definition in schema["$defs"].values():
        entries = definition.get("properties", {})
        required = definition.get("required", [])
        for entry in entries.values():
            if entry.pop(NULLABLE, False):
                entry["type"] = ["number", "null"]
        definition["required"] = [name for name in entries if name in required or "default" in entries[name]]
    return schema
