"""What `quantize` found: before and after, what was calibrated and ranked, and whether the result may be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.json_values import to_json
from causalrn.bundle.quantization import Quantization
from causalrn.bundle.tolerances import Budget
from causalrn.calibration.evaluation import Measured, StepTimes
from causalrn.calibration.sensitivity import Sensitivity
from causalrn.calibration.table import CalibrationTable
from causalrn.runtimes.parity.budgets import judge_agreement

REPORT_VERSION = 1


@dataclass(frozen=True)
class QuantizeReport:
    """One quantization.

    Attributes:
        source, source_sha256: the float32 bundle.
        quantization: what was done.
        before, after: figures of the two bundles, on the same tokens and examples.
        times: of a step of either bundle.
        against: what distributions are compared with, for people.
        measured_on: which tokens, for people.
        budget: what the quantized bundle may lose.
        sensitivities: the most sensitive part first; empty where they were not asked for.
        granularity: of `sensitivities`: "block" or "tensor".
        table: what calibration saw; None where nothing was calibrated.
        notes: what a reader should know beside the figures.
    """

    source: str
    source_sha256: str
    quantization: Quantization
    before: Measured
    after: Measured
    times: StepTimes
    against: str
    measured_on: str
    budget: Budget
    sensitivities: Sequence[Sensitivity] = ()
    granularity: str = "block"
    table: CalibrationTable | None = None
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """What the quantized bundle lost beyond its budget; NaN is always beyond."""
        return find_faults(self.before, self.after, self.budget)

    @property
    def passed(self) -> bool:
        """Whether it may be kept."""
        return not self.faults

    def entries(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "report": "causalrn-quantize",
            "version": REPORT_VERSION,
            "passed": self.passed,
            "faults": self.faults,
            "source": {"path": self.source, "sha256": self.source_sha256},
            "quantization": to_json(self.quantization),
            "against": self.against,
            "measured_on": self.measured_on,
            "step_times": to_json(self.times),
            "before": self.before.entries(),
            "after": self.after.entries(),
            "ratios": self.ratios(),
            "budget": to_json(self.budget),
            "sensitivity": to_json(self.sensitivities),
            "states": {} if self.table is None else to_json(self.table.states),
            "notes": list(self.notes),
        }

    def ratios(self) -> Mapping[str, float | None]:
        """After / before: of weights, of the bundle, of the state per token, and of time."""
        before, after = self.before, self.after
        return {
            "weights_bytes": after.weights_bytes / before.weights_bytes,
            "bundle_bytes": after.bundle_bytes / before.bundle_bytes,
            "state_bytes_per_token": after.state_bytes_per_token / before.state_bytes_per_token
            if before.state_bytes_per_token
            else None,
            "step_us": self.times.ratio,
        }


def find_faults(before: Measured, after: Measured, budget: Budget) -> list[str]:
    """What was lost beyond a budget, as `verify` judges it."""
    faults = []
    kl, changes = after.agreement.kl_divergence, after.agreement.argmax_changes
    if not kl <= budget.kl_divergence:
        faults.append(f"KL divergence {kl:.1e} nats, allowed {budget.kl_divergence:g}")
    if not changes <= budget.argmax_changes:
        faults.append(f"{100 * changes:.3g} % of likely tokens changed, allowed {100 * budget.argmax_changes:g} %")
    lines = judge_agreement(after.agreement, budget, is_sample=False)[2:]  # scale and offset
    faults += [f"logits: {line.describe()}" for line in lines if not line.passed]
    pairs = {"teacher-forced": (before.teacher_forced, after.teacher_forced)}
    pairs["free-running"] = (before.free_running, after.free_running)
    for name, (was, now) in pairs.items():
        if was is None or now is None:
            continue
        if was.right - now.right > budget.most_lost(was.counted):
            lost = 100 * (was.accuracy - now.accuracy)
            faults.append(f"{name} accuracy lost {lost:.3g} points, allowed {100 * budget.accuracy_drop:g}")
    return faults
