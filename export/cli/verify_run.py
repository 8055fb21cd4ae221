"""One verification as `verify` and `demo` drive it: which sessions run, on what, with progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.card import ModelCard
from causalrn.errors import InputError
from causalrn.export.cli.console import progress
from causalrn.manifest import Bundle
from causalrn.runtimes import RUNTIMES, Session, SessionOptions, open_session
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity import (
    ParityRow,
    against_recorded,
    compare_parallel,
    compare_prefill,
    compare_resumed,
    compare_steps,
    with_task,
)
from causalrn.runtimes.reference import GOLDEN_NAME, Reference, load_golden, make_reference, sample_tokens
from causalrn.runtimes.task_accuracy import TaskAccuracy, free_running_accuracy, teacher_forced_accuracy
from causalrn.tasks import Corpus, Task, TextTask, random_source

_SEQUENCES, _MOST_STEPS = 4, 256
REPORT_VERSION = 2
_TIES = 0.002


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify.

    Attributes:
        runtimes: which; none means all.
        samples: sequences of the task to measure accuracy on.
        steps: tokens per sequence to compare; None takes the capacity, at most 256.
        task: the model's task, if the caller insists on one.
        text: the file that a text model's accuracy is measured on.
    """

    runtimes: tuple[str, ...] = ()
    samples: int = 1000
    steps: int | None = None
    seed: int = 0
    task: str | None = None
    text: Path | None = None
    session: SessionOptions = field(default_factory=SessionOptions)


@dataclass(frozen=True)
class VerifyReport:
    """The outcome.

    Attributes:
        against: what the rows were compared with, for people.
        notes: what a reader should know beside the rows.
        problems: what is wrong beside the rows; any problem fails the verification.
    """

    bundle: Path
    card: ModelCard
    against: str
    rows: tuple[ParityRow, ...]
    largest_logit: float
    recurrent_error: float
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row is within tolerance and nothing else is wrong."""
        return bool(self.rows) and all(row.passed for row in self.rows) and not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "report": "causalrn-verify",
            "version": REPORT_VERSION,
            "passed": self.passed,
            "bundle": str(self.bundle),
            **self.card.to_json(),
            "against": self.against,
            "largest_logit": self.largest_logit,
            "float64_recurrent_relative_error": self.recurrent_error,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def verify_with_checkpoint(path: Path, run: Path, options: VerifyOptions) -> VerifyReport:
    """Compare parallel, recurrent and exported forms with the float64 oracle of a RUN."""
    from causalrn.checkpoint import load_checkpoint

    wanted = _wanted(options, RUNTIMES)
    bundle, checkpoint = Bundle.open(path), load_checkpoint(run)
    card, problems, task = checkpoint.card, [], _task(bundle, options)
    if bundle.manifest.card.config != card.config:
        raise InputError(f"{path} holds another model than {run}: {bundle.manifest.card.config.describe()}")
    if bundle.manifest.checkpoint_sha256 != checkpoint.sha256:
        problems.append(f"the bundle was exported from other weights than those in {run} (SHA-256 differs)")
    tokens = sample_tokens(card, random_source("verify", options.seed, 1), _SEQUENCES, _steps(bundle, options))
    with progress("oracle", 1) as advance:
        reference = make_reference(checkpoint.model, card, tokens)
        advance()
    rows: list[ParityRow] = []
    for runtime in wanted:
        source = run if runtime in ("parallel", "recurrent") else path
        with open_session(source, runtime, options.session if runtime == "onnxruntime" else None) as session:
            rows += _compare(session, reference, options, task)
    against = f"the float64 oracle of {run}, {len(tokens)} sequences of {tokens.shape[1]} tokens, seed {options.seed}"
    return _report(bundle, against, rows, reference, tuple(problems), task)


def verify_with_golden(path: Path, options: VerifyOptions) -> VerifyReport:
    """Check a bundle against the golden vectors that it carries; needs neither torch nor onnx."""
    _wanted(options, ("onnxruntime",), " without --checkpoint")
    bundle = Bundle.open(path)
    task = _task(bundle, options)
    golden = load_golden(bundle.file(GOLDEN_NAME))
    with open_bundle(bundle, options.session) as session:
        assert isinstance(session, CellSession)
        stepped = against_recorded(compare_steps(session, golden.reference), session, golden)
        rows = [
            _with_accuracy(stepped, session, options, task, _by_steps),
            _with_accuracy(compare_prefill(session, golden.reference), session, options, task, free_running_accuracy),
            compare_resumed(session, golden),
        ]
    tokens = golden.reference.tokens
    against = f"the oracle's golden vectors in the bundle, {len(tokens)} sequences of {tokens.shape[1]} tokens"
    return _report(bundle, against, rows, golden.reference, (), task)


def _report(
    bundle: Bundle,
    against: str,
    rows: list[ParityRow],
    reference: Reference,
    problems: tuple[str, ...],
    task: Task | None,
) -> VerifyReport:
    card = bundle.manifest.card
    problems += _accuracy_problems(rows)
    notes: tuple[str, ...] = ()
    if task is None:
        why = "no task is known for this model" if card.task is None else "the text is not here, name it with --text"
        notes += (f"{why}: accuracy was not measured",)
    elif rows and all(row.task is None for row in rows):
        notes += (f"the task needs {task.capacity} positions, more than there are: accuracy was not measured",)
    capacity, steps = bundle.manifest.state.tensors[0].capacity, reference.tokens.shape[1]
    if capacity is not None and steps < capacity:
        notes += (f"positions from {steps} to the capacity of {capacity} were not compared: see --steps",)
    return VerifyReport(
        bundle.path, card, against, tuple(rows), reference.largest_logit, reference.recurrent_error, notes, problems
    )


def _task(bundle: Bundle, options: VerifyOptions) -> Task | None:
    """The task to measure; None where it is unknown, or its text is not here.

    Raises:
        InputError: the options ask for another task than the model's.
    """
    task = bundle.manifest.card.task
    name = "unknown" if task is None else task.name
    if options.task not in (None, name):
        raise InputError(f"--task {options.task} and {bundle.path} contradict each other: its task is {name}")
    if options.text is not None and not isinstance(task, TextTask):
        raise InputError(f"--text and {bundle.path} contradict each other: the model was not trained on a text")
    if isinstance(task, TextTask):
        if options.task is not None and options.text is None:
            raise InputError("--task text needs --text FILE")
        return None if options.text is None else TextTask(task.length, Corpus.open(options.text))
    return task


def _accuracy_problems(rows: list[ParityRow]) -> tuple[str, ...]:
    """Forms of one model are right on the same strings; a tie between two tokens may tip one in a thousand."""
    counts = {row.form: row.task for row in rows if row.task is not None}
    right = [accuracy.right for accuracy in counts.values()]
    if not right or max(right) - min(right) <= max(1, _TIES * next(iter(counts.values())).counted):
        return ()
    listed = ", ".join(f"{form} {accuracy.right}" for form, accuracy in counts.items())
    return (f"the forms differ in how many answers are right: {listed}",)


def _wanted(options: VerifyOptions, possible: tuple[str, ...], when: str = "") -> tuple[str, ...]:
    for runtime in options.runtimes:
        if runtime not in RUNTIMES:
            raise InputError(f"runtime {runtime!r} is unknown: choose one of {', '.join(RUNTIMES)}")
        if runtime not in possible:
            raise InputError(f"runtime {runtime} cannot be verified{when}: choose {' or '.join(possible)}")
    return tuple(runtime for runtime in possible if runtime in (options.runtimes or possible))


def _steps(bundle: Bundle, options: VerifyOptions) -> int:
    capacity = bundle.manifest.state.tensors[0].capacity
    steps = options.steps or min(capacity or _MOST_STEPS, _MOST_STEPS)
    if capacity is not None and steps > capacity:
        raise InputError(f"--steps {steps} is beyond the bundle's capacity of {capacity}")
    if steps < 2:
        raise InputError(f"{bundle.path}: a capacity of {capacity} is too short to verify: export it with at least 2")
    return steps


def _compare(session: Session, reference: Reference, options: VerifyOptions, task: Task | None) -> list[ParityRow]:
    if session.runtime == "parallel":
        row = compare_parallel(session, reference)
        return [_with_accuracy(row, session, options, task, teacher_forced_accuracy)]
    rows = [_with_accuracy(compare_steps(session, reference), session, options, task, _by_steps)]
    if session.runtime != "recurrent":
        prefilled = compare_prefill(session, reference)
        rows.append(_with_accuracy(prefilled, session, options, task, free_running_accuracy))
    return rows


_by_steps = functools.partial(free_running_accuracy, by_steps=True)


def _with_accuracy(
    row: ParityRow,
    session: Session,
    options: VerifyOptions,
    task: Task | None,
    measure: Callable[..., TaskAccuracy],
) -> ParityRow:
    """Add the task's accuracy where there is a task, and the session has room for it."""
    if not row.is_finite or task is None or (session.capacity is not None and session.capacity < task.capacity):
        return row
    examples = task.draw("verify", options.samples, options.seed)
    with progress(f"{task.name}, {row.form}", options.samples) as advance:
        return with_task(row, measure(session, task, examples, advance))
