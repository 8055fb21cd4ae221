"""The outcome of a verification as one object: what commands print, write as JSON and HTML, and certify."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import finite
from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.bundle.tolerances import ILL_CONDITIONED_BOUND, ILL_CONDITIONED_JUMP
from causalrn.runtimes.parity.reference import Reference
from causalrn.runtimes.parity.results import Attribution, LevelResult
from causalrn.training.card import ModelCard

REPORT_VERSION = 4
PASS, FAIL, NOT_EXECUTED = VERDICTS = ("PASS", "FAIL", "compiled, not executed")


@dataclass(frozen=True)
class BlockReport:
    """One block: how far rounding may lead in it, and what makes it delicate.

    Attributes:
        bound_in, bound_state, bound_out: largest relative error allowed of the stream into it, of its state, and of the
            stream out of it.
        condition: figures of :class:`causalrn.runtimes.parity.conditioning.BlockCondition`; None without a checkpoint.
    """

    block: int
    bound_in: float
    bound_state: float
    bound_out: float
    condition: Mapping[str, Any] | None

    @property
    def ill_conditioned(self) -> bool:
        """Whether the error bound explodes here."""
        worst = max(self.bound_state, self.bound_out)
        return not worst <= max(ILL_CONDITIONED_BOUND, ILL_CONDITIONED_JUMP * self.bound_in)

    def describe(self) -> str:
        """For people: how uncertain, and why."""
        worst = max(self.bound_state, self.bound_out)
        text = f"block {self.block} is ill-conditioned: any float32 form may be off by {worst:.0e} after it"
        if self.condition is None:
            return text
        condition, pair = self.condition["pair_condition"], self.condition["pair"]
        if pair is not None and (condition is None or condition > 1 / self.condition["spread"]):
            size = "without bound" if condition is None else f"{condition:.0e}"
            return f"{text} (b_{pair[1]} is near -a_{pair[0]}: pair condition {size})"
        return f"{text} (smallest spread in a norm: {self.condition['spread']:.0e})"

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        bounds = {name: finite(getattr(self, name)) for name in ("bound_in", "bound_state", "bound_out")}
        return {"block": self.block, **bounds, "ill_conditioned": self.ill_conditioned, "condition": self.condition}


def block_reports(reference: Reference, conditions: Sequence[Mapping[str, Any]] | None) -> tuple[BlockReport, ...]:
    """Per block what its error bounds are; `conditions` come from a checkpoint."""
    largest = [float(abs(stream).max()) or 1.0 for stream in reference.streams]
    streams = [float(bound[-1]) / size for bound, size in zip(reference.bounds.streams, largest, strict=True)]
    states: dict[int, float] = {}
    for name, bound in reference.bounds.states.items():
        block = int(name.partition(".")[0])
        states[block] = max(states.get(block, 0.0), bound)
    return tuple(
        BlockReport(
            block, streams[block], states[block], streams[block + 1], None if conditions is None else conditions[block]
        )
        for block in range(len(streams) - 1)
    )


@dataclass(frozen=True)
class VerifyReport:
    """A verification.

    Attributes:
        bundle, bundle_sha256: what was verified.
        checkpoint_sha256: of the weights that it was compared with; None where golden vectors stood in for them.
        against: what it was compared with, for people.
        results: one per level and form.
        attributions: for what failed, where it begins and whose fault it is.
        blocks: error bounds and conditions.
        reference: sequences and steps compared, largest |logit|: what relative errors refer to.
        settings: seed, provider, threads, levels: what to repeat it with.
        not_checked: levels that were asked for and not reached, or not possible.
        notes: what a reader should know beside the results.
        problems: what is wrong beside the results; any problem fails the verification.
        not_executed: why a compiled bundle could not run here; empty where it ran.
    """

    bundle: Path
    bundle_sha256: str
    checkpoint_sha256: str | None
    card: ModelCard
    against: str
    results: tuple[LevelResult, ...]
    attributions: tuple[Attribution, ...]
    blocks: tuple[BlockReport, ...]
    reference: Mapping[str, Any]
    settings: Mapping[str, Any]
    not_checked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    not_executed: str = ""

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`: it passes if every result is within tolerance and nothing else is wrong."""
        if self.problems or not all(result.passed for result in self.results):
            return FAIL
        if self.not_executed:
            return NOT_EXECUTED
        return PASS if self.results else FAIL

    @property
    def passed(self) -> bool:
        """Whether the bundle ran and is right."""
        return self.verdict == PASS

    @property
    def why_not_certified(self) -> str:
        """Why nothing can be certified; empty where it can."""
        if not self.passed:
            return "only what passes is certified"
        if all(runtime in checkpoint_runtimes() for runtime in self.settings["forms"]):
            return "the bundle itself was not run"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "report": "causalrn-verify",
            "version": REPORT_VERSION,
            "passed": self.passed,
            "verdict": self.verdict,
            "not_executed": self.not_executed or None,
            "bundle": {"path": str(self.bundle), "sha256": self.bundle_sha256},
            "checkpoint_sha256": self.checkpoint_sha256,
            **self.card.entries(),
            "against": self.against,
            "reference": dict(self.reference),
            "settings": dict(self.settings),
            "environment": environment(),
            "results": [result.to_json() for result in self.results],
            "attributions": [attribution.to_json() for attribution in self.attributions],
            "blocks": [block.to_json() for block in self.blocks],
            "not_checked": list(self.not_checked),
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def environment() -> dict[str, str]:
    """Machine and versions that a report was made with."""
    versions = {"python": platform.python_version()}
    for package in ("causalrn", "numpy", "onnxruntime", "torch", "onnx", "tensorrt-rtx-cu13", "tensorrt"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"machine": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count()), **versions}
