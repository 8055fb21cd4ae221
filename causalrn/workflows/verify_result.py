"""What a verification gives: the report with its notes and problems, the outputs, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import as_path, written_file
from causalrn.bundle.json_values import to_json
from causalrn.bundle.known_by import caution
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.precisions import FLOAT32, PRECISIONS
from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.bundle.tolerances import LARGEST_BOUND
from causalrn.compiling.processor import processor_family
from causalrn.model.config import ModelConfig
from causalrn.runtimes.parity.block_reports import BlockCondition, block_reports
from causalrn.runtimes.parity.certificate import save_certificate
from causalrn.runtimes.parity.coverage import coverage_of, longest_run
from causalrn.runtimes.parity.figures import largest_set
from causalrn.runtimes.parity.report import ReferenceSize, Settings, VerifiedBundle, VerifyReport
from causalrn.runtimes.parity.results import ALL_LEVELS
from causalrn.runtimes.parity.verification import Verification
from causalrn.runtimes.snapshot import Array
from causalrn.training.card import ModelCard
from causalrn.workflows.arguments import PathLike
from causalrn.workflows.saving import JsonReport, save_text
from causalrn.workflows.task_choice import why_no_task
from causalrn.workflows.verify_options import VerifyOptions


@dataclass(frozen=True)
class VerifyResult(JsonReport):
    """A verification that has ended.

    Attributes:
        report: every result, what failed and why, settings and versions.
        outputs: token ids [B, T], the oracle's logits [B, T, V], and those of each runtime.
    """

    report: VerifyReport
    outputs: Mapping[str, Array]

    @classmethod
    def of(cls, report: VerifyReport, verification: Verification) -> VerifyResult:
        """With the outputs of a verification."""
        reference = verification.case.reference
        outputs = {"tokens": reference.tokens, "oracle.logits": reference.logits, **verification.outputs}
        return cls(report, outputs)

    @property
    def passed(self) -> bool:
        """Whether the bundle ran and is within tolerance everywhere."""
        return self.report.passed

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or that engines were compiled and not executed."""
        return self.report.verdict

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; docs/verify-report.schema.json describes them."""
        data: dict[str, Any] = to_json(self.report)
        return data

    def save_html(self, path: PathLike) -> Path:
        """Write the report as one self-contained page; gives its path.

        Raises:
            InputError, OSError: as :meth:`save_json`.
        """
        from causalrn.workflows.pages.verify_page import render_page

        return save_text(path, lambda: render_page(self.report))

    def save_outputs(self, path: PathLike) -> None:
        """Write token ids and all logits as .npz.

        Raises:
            InputError: a place that cannot be written to.
        """
        archive = io.BytesIO()  # a device or pipe that is written to cannot be searched
        np.savez(archive, **self.outputs)  # type: ignore[arg-type]
        with written_file(as_path(path, "path")) as partial:
            partial.write_bytes(archive.getvalue())

    def certify(self, path: PathLike) -> None:
        """Write a certificate for the bundle as it lies there.

        Raises:
            InputError: the verification did not pass, or does not speak of the bundle.
            BundleError: the bundle is not the one that was verified.
        """
        save_certificate(as_path(path, "path"), self.report)


@dataclass(frozen=True)
class ReportParts:
    """What goes into a report beside the results of the levels.

    Attributes:
        against: what the bundle was compared with, for people.
        problems: what is wrong beside the results.
        not_executed: why compiled engines did not run; empty where they did.
        checkpoint_sha256: of the weights; None where golden vectors stood in for them.
        conditions: of every block; None without weights.
    """

    bundle: Bundle
    card: ModelCard
    against: str
    options: VerifyOptions
    problems: Sequence[str]
    not_executed: str
    checkpoint_sha256: str | None = None
    conditions: list[BlockCondition] | None = None


def make_report(parts: ReportParts, verification: Verification) -> VerifyReport:
    """The report of a verification that has run."""
    reference = verification.case.reference
    blocks = block_reports(reference, parts.conditions)
    late = {*verification.not_checked, *verification.impossible}
    ill_conditioned = (block.describe() for block in blocks if block.ill_conditioned)
    return VerifyReport.of(
        VerifiedBundle(str(parts.bundle.path), parts.bundle.sha256),
        parts.card,
        checkpoint_sha256=parts.checkpoint_sha256,
        against=parts.against,
        reference=ReferenceSize(
            len(reference.tokens), reference.steps, reference.largest_logit, reference.recurrent_error
        ),
        settings=_settings(parts.options, verification),
        results=verification.results,
        attributions=verification.attributions,
        blocks=blocks,
        not_checked=[level for level in ALL_LEVELS if level in late],
        notes=[
            *architecture_notes(parts.card, parts.bundle),
            *_precision_notes(parts.options),
            *_notes(parts.bundle, verification),
            *ill_conditioned,
        ],
        problems=[*parts.problems, *_problems(verification, parts.options)],
        measured=verification.measured,
        not_executed=parts.not_executed,
        is_converted=parts.bundle.manifest.converted is not None,
        coverage=coverage_of(parts.bundle, verification),
    )


def architecture_notes(card: ModelCard, bundle: Bundle) -> list[str]:
    """A warning where nobody knows that the model is what was trained; of a bundle in this one, too."""
    if not isinstance(card.config, ModelConfig):  # its functions were traced: there is nothing to know beside
        return []
    warnings = {"": caution(card.known_by)}
    for name in bundle.manifest.folders:
        warnings[f"of the bundle in {name}, "] = caution(Manifest.read(bundle.path / name).known_by)
    return [where + warning for where, warning in warnings.items() if warning]


def _precision_notes(options: VerifyOptions) -> list[str]:
    """What a runtime was asked to compute in, where that is not float32."""
    precision = options.session.precision
    return [] if precision == FLOAT32 else [f"computed in {precision} ({PRECISIONS[precision]}): judged by a budget"]


def _settings(options: VerifyOptions, verification: Verification) -> Settings:
    """What to repeat it with."""
    return Settings(
        levels=options.level,
        runtimes=tuple(verification.runtimes),
        seed=options.seed,
        provider=options.session.provider,
        threads=options.session.threads,
        gpu=next((session.gpu for session in verification.runtimes.values() if session.gpu), None),
        time_budget_s=options.time_budget,
        budget=verification.case.budget,
    )


def _problems(verification: Verification, options: VerifyOptions) -> list[str]:
    """What keeps a verification from passing beside its results."""
    problems, reference = [], verification.case.reference
    bound = float(reference.bounds.logits[-1]) / reference.largest_logit
    if not bound <= LARGEST_BOUND and verification.case.budget is None:
        problems.append(
            f"rounding alone may move the logits by {bound:.0e} of the largest: these weights are so ill-conditioned "
            "that agreement in float32 says nothing"
        )
    if verification.measured and not verification.results:
        problems.append("nothing was compared: what was measured has nothing to be compared with; check more levels")
    late = verification.not_checked
    if late and options.fail_fast and verification.failed:
        problems.append(f"not checked, because of `fail_fast`: {', '.join(late)}")
    elif late:
        problems.append(
            f"not checked within {options.time_budget:g} s: {', '.join(late)}; give more with `time_budget`"
        )
    return problems


def _other_family(verification: Verification) -> list[str]:
    """Whether the recorded outputs come from processors that round otherwise."""
    golden, here = verification.golden, processor_family()
    if golden is None or golden.recorded_on in (None, here) or not verification.repeats_recorded:
        return []
    return [
        f"this processor is of another family ({here}) than the one that outputs were recorded on "
        f"({golden.recorded_on}): they repeat within a bound, not bit for bit"
    ]


def _notes(bundle: Bundle, verification: Verification) -> list[str]:
    """What a reader should know beside the results."""
    notes, plan = [], verification.plan
    if not verification.runtimes:
        return ["its files and manifest are whole; what the engines compute was not looked at"]
    if verification.golden is not None and not verification.repeats_recorded:
        recorded = "onnxruntime recorded" if bundle.manifest.converted is None else "its export recorded"
        notes.append(f"{recorded} logits with other roundings: they were not compared")
    notes += _other_family(verification)
    if "task" in plan.levels and plan.examples is None:
        notes.append(f"{why_no_task(bundle, plan.task)}: accuracy was not measured")
    answered = largest_set(result.figures.examples for result in (*verification.results, *verification.measured))
    if plan.examples is not None and 0 < answered < len(plan.examples):
        notes.append(
            f"there was time for {answered:,} of {len(plan.examples):,} sequences of the task: see `time_budget`"
        )
    stateless = [level for level in verification.impossible if level not in ("task", "kernels")]
    if stateless:
        notes.append(f"nothing that was verified carries a state: {', '.join(stateless)} were not checked")
    if not any(name not in checkpoint_runtimes() for name in verification.runtimes):
        notes.append("the bundle itself was not run: this says nothing about it")
    capacity, longest = bundle.manifest.state.capacity, longest_run(verification)
    if longest and (capacity is None or longest < capacity):
        end = "without end" if capacity is None else f"to the capacity of {capacity:,}"
        more = "see `steps` and `drift_steps`" if verification.golden is None else "a `checkpoint` reaches further"
        if bundle.manifest.state.is_own:
            more = "`verify_recurrent` of the model reaches further"
        notes.append(f"compared over at most {longest:,} steps; the model goes on {end}: {more}")
    return notes
