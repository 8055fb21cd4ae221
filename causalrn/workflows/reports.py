"""What commands report as JSON, beside the reports that are objects of their own: `train`, `convert`, `export`, `run`.

The schemas of all reports are made in `causalrn/cli/report_schemas.py`, and published in docs/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from causalrn.bundle.json_values import to_json
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.manifest import FileEntry
from causalrn.bundle.state_spec import StateSpec
from causalrn.runtimes.parity.entries import ReportEntry

if TYPE_CHECKING:
    from causalrn.calibration.report import QuantizeReport
    from causalrn.runtimes.task_accuracy import TaskAccuracy
    from causalrn.training.checkpoint_folder import CheckpointFolder
    from causalrn.workflows.convert import ConvertResult
    from causalrn.workflows.export import ExportResult
    from causalrn.workflows.training_run import TrainResult


class Accuracy(ReportEntry, frozen=True):
    """How much of a task is right.

    Attributes:
        unit: what is counted: "strings" or "bytes".
        counted, right: how many there were, and how many were right.
        accuracy: right / counted.
        loss: nats per token; None where it was not measured.
    """

    unit: str
    counted: int
    right: int
    accuracy: float
    loss: float | None

    @classmethod
    def of(cls, found: TaskAccuracy) -> Accuracy:
        """Of an accuracy, without its parts by position and length."""
        return cls(found.unit, found.counted, found.right, found.accuracy, found.loss)


class RunFolder(ReportEntry, frozen=True):
    """A RUN, the folder of a checkpoint.

    Attributes:
        path: of the folder, as it was named.
        sha256: of its weights.
        model: the configuration.
        alphabet, task: name of the token alphabet, and what the model was trained on; None where unknown.
        known_by: how the architecture is known; None where nobody recorded it.
    """

    path: str
    sha256: str
    model: Mapping[str, Any]
    alphabet: str | None
    task: Mapping[str, Any] | None
    known_by: KnownBy | None

    @classmethod
    def of(cls, run: CheckpointFolder, path: str) -> RunFolder:
        """Of a checkpoint folder, under the name that the user gave it."""
        return cls(path, run.sha256, **run.card.fields())


class TrainReport(ReportEntry, frozen=True, kw_only=True):
    """What `train` did.

    Attributes:
        run: the RUN that it wrote.
        steps: optimizer steps that were taken.
        seconds: that they took, evaluations included.
        teacher_forced, free_running: accuracy at the end: the right tokens given, and left alone.
    """

    report: Literal["causalrn-train"] = "causalrn-train"
    version: Literal[1] = 1
    run: RunFolder
    steps: int
    seconds: float
    teacher_forced: Accuracy
    free_running: Accuracy

    @classmethod
    def of(cls, result: TrainResult) -> TrainReport:
        """Of a training that has ended."""
        forced, free = result.evaluation.teacher_forced, result.evaluation.free_running
        return cls(
            run=RunFolder.of(result.run, str(result.run.path)),
            steps=result.steps,
            seconds=result.seconds,
            teacher_forced=Accuracy.of(forced),
            free_running=Accuracy.of(free),
        )


class SettingRow(ReportEntry, frozen=True):
    """A setting that weights may have been trained with.

    Attributes:
        setting: the configuration.
        loss, behind, interval: nats per target token; how far behind the best, and the half width of its confidence
            interval.
        sequences: that it was tried on.
        token_accuracy: share of target tokens right, 0 to 1.
    """

    setting: Mapping[str, Any]
    loss: float | None
    behind: float | None
    interval: float | None
    sequences: int
    token_accuracy: float


class ConvertReport(ReportEntry, frozen=True, kw_only=True):
    """What `convert` found and wrote.

    Attributes:
        source: the file that was read.
        run: the RUN that it wrote.
        unwrapped: what had to be taken off or out to find the weights, in words.
        compared_on: what settings were compared on, in words; None where they were not.
        chance: loss of guessing by the tokens' frequencies, in nats per target token; None likewise.
        settings: every setting that was tried, the best first.
    """

    report: Literal["causalrn-convert"] = "causalrn-convert"
    version: Literal[1] = 1
    source: str
    run: RunFolder
    unwrapped: tuple[str, ...]
    compared_on: str | None
    chance: float | None
    settings: tuple[SettingRow, ...]

    @classmethod
    def of(cls, result: ConvertResult, path: str) -> ConvertReport:
        """Of a conversion whose RUN the user named `path`."""
        ranking = result.ranking
        rows = () if ranking is None else ranking.rows
        settings = tuple(
            SettingRow(row.setting.entries(), row.loss, row.margin, row.interval, row.strings, row.token_accuracy)
            for row in rows
        )
        return cls(
            source=str(result.source),
            run=RunFolder.of(result.run, path),
            unwrapped=result.unwrapped,
            compared_on=None if ranking is None else ranking.data,
            chance=None if ranking is None else ranking.chance,
            settings=settings,
        )


class ExportReport(ReportEntry, frozen=True, kw_only=True):
    """What `export` wrote, or why it did not.

    Attributes:
        passed: whether it was written; a quantization that loses too much is not.
        path: the bundle.
        sha256: of its manifest; None where nothing was written.
        target: what kind of bundle.
        model: the configuration; None where nothing was written, as the next three.
        opset, state, files: ONNX opset, state contract, hash and size of every file.
        quantization: what was lost, as `quantize` reports it; None in float32.
    """

    report: Literal["causalrn-export"] = "causalrn-export"
    version: Literal[1] = 1
    passed: bool
    path: str
    sha256: str | None
    target: str
    model: Mapping[str, Any] | None
    opset: int | None
    state: StateSpec | None
    files: Mapping[str, FileEntry] | None
    quantization: Mapping[str, Any] | None

    @classmethod
    def of(cls, result: ExportResult) -> ExportReport:
        """Of a bundle that was written."""
        manifest = result.bundle.manifest
        return cls(
            passed=True,
            path=str(result.bundle.path),
            sha256=result.bundle.sha256,
            target=manifest.target,
            model=manifest.model,
            opset=manifest.opset,
            state=manifest.state,
            files=manifest.files,
            quantization=None if result.report is None else result.report.entries(),
        )

    @classmethod
    def of_refused(cls, path: str, target: str, report: QuantizeReport) -> ExportReport:
        """Of a quantization that loses too much: nothing was written."""
        return cls(
            passed=False,
            path=path,
            sha256=None,
            target=target,
            model=None,
            opset=None,
            state=None,
            files=None,
            quantization=report.entries(),
        )


class GeneratedRow(ReportEntry, frozen=True):
    """What was generated after one prompt.

    Attributes:
        prompt: as it was given; None where generation went on from a state file.
        text: what was generated; token ids with blanks between them where the model has no alphabet.
        tokens: the ids, those that end it included.
        ended: whether a token or text ended it; else it stopped at `max_new_tokens` or the capacity.
    """

    prompt: str | None
    text: str
    tokens: tuple[int, ...]
    ended: bool


class RunReport(ReportEntry, frozen=True, kw_only=True):
    """What `run` generated or computed.

    Attributes:
        path: the bundle or RUN.
        runtime: that ran it.
        rows: per prompt what was generated; empty for logits.
        logits: file of the logits; None where text was generated.
        shape: [B, T, V] of the logits; None likewise.
        steps: tokens that were generated or taken per row, at most.
        ms_per_token: wall time over that, prompts included; None for logits.
        state: file that the state was saved to; None where it was not.
        notes: what a reader should know, as that a prompt's length was not trained.
    """

    report: Literal["causalrn-run"] = "causalrn-run"
    version: Literal[1] = 1
    path: str
    runtime: str
    rows: tuple[GeneratedRow, ...] = ()
    logits: str | None = None
    shape: tuple[int, ...] | None = None
    steps: int = 0
    ms_per_token: float | None = None
    state: str | None = None
    notes: tuple[str, ...] = ()


def report_values(report: ReportEntry) -> dict[str, Any]:
    """A report as JSON values."""
    values: dict[str, Any] = to_json(report)
    return values
