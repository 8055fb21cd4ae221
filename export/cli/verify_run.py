"""One verification as `verify` and `demo` drive it: opens the forms, makes the reference, shows progress."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalrn.errors import InputError
from causalrn.export.cli.console import progress
from causalrn.export.cli.token_ids import load_token_ids
from causalrn.manifest import Bundle
from causalrn.runtimes import RUNTIMES, Session, SessionOptions
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.opening import RUN_RUNTIMES, open_bundle
from causalrn.runtimes.parity.attribution import Witnesses
from causalrn.runtimes.parity.drift import RecordedLongReference
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import sample_tokens, state_positions
from causalrn.runtimes.parity.report import VerifyReport, block_reports
from causalrn.runtimes.parity.results import LEVELS
from causalrn.runtimes.parity.verification import Plan, Verification
from causalrn.runtimes.session import Array, IntArray
from causalrn.tasks import Corpus, Task, TextTask, random_source
from causalrn.tolerances import Budget

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.checkpoint import Checkpoint
    from causalrn.runtimes.parity.oracle import Oracle

_SEQUENCES, _MOST_STEPS = 4, 256
_DRIFT_STEPS = 4096
_NOISE_SHARE = 0.1


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify.

    Attributes:
        runtimes: which; none means all.
        levels: which of :data:`causalrn.runtimes.parity.results.LEVELS`.
        samples: sequences of the task to measure accuracy on.
        steps: tokens per sequence to compare; None takes the capacity, at most 256.
        drift_steps: steps of the long run, all of them; None takes the capacity, at most 4,096, and what time allows.
        task: the model's task, if the caller insists on one.
        text: the file that a text model's accuracy is measured on.
        inputs: a .npy file of token ids to compare on, instead of sampled ones.
        budget: what a quantized form may lose; None judges by rounding.
        least_accuracy: smallest accuracy that passes, 0 to 1.
        seconds: time budget.
    """

    runtimes: tuple[str, ...] = ()
    levels: tuple[str, ...] = LEVELS
    samples: int = 1000
    steps: int | None = None
    drift_steps: int | None = None
    seed: int = 0
    task: str | None = None
    text: Path | None = None
    inputs: Path | None = None
    budget: Budget | None = None
    least_accuracy: float | None = None
    seconds: float = 300.0
    fail_fast: bool = False
    session: SessionOptions = field(default_factory=SessionOptions)


@dataclass(frozen=True)
class Verified:
    """A report, and what the forms said: token ids, the oracle's logits, and each form's."""

    report: VerifyReport
    outputs: dict[str, Array]


def verify_with_checkpoint(path: Path, run: Path, options: VerifyOptions) -> Verified:
    """Compare parallel, recurrent and exported forms with the float64 oracle of a RUN."""
    from causalrn.checkpoint import load_checkpoint
    from causalrn.runtimes.parity.oracle import Oracle, OracleLongReference

    wanted = _wanted(options, RUNTIMES)
    bundle, checkpoint = Bundle.open(path), load_checkpoint(run)
    if bundle.manifest.card.config != checkpoint.card.config:
        raise InputError(f"{path} holds another model than {run}: {bundle.manifest.card.config.describe()}")
    task = _task(bundle, options)
    tokens, what = _tokens(bundle, options)
    oracle = Oracle(checkpoint.model, checkpoint.card)
    with progress("oracle", 1):
        reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
        conditions = _conditions(oracle, tokens)
    long = OracleLongReference(oracle, reference, _long_tokens(bundle, options), _NOISE_SHARE * options.seconds)
    problems: tuple[str, ...] = ()
    if bundle.manifest.checkpoint_sha256 != checkpoint.sha256:
        problems = (f"the bundle was exported from other weights than those in {run} (SHA-256 differs)",)
    opener = _Opener(bundle, options.session, checkpoint)
    with contextlib.ExitStack() as stack:
        forms = {name: stack.enter_context(opener.open(name)) for name in RUNTIMES if name in (*RUN_RUNTIMES, *wanted)}
        peers = {name: forms[name] for name in RUN_RUNTIMES}
        verification = Verification(
            {name: forms[name] for name in wanted},
            Case(reference, options.budget, options.seed),
            _plan(options, task, bundle),
            long,
            opener.open_cell,
            Witnesses(peers, opener.graph(), oracle.states),
            provider=options.session.provider,
            progress=progress,
        )
        verification.run()
    against = f"the float64 oracle of {run}, {what}"
    report = _report(bundle, verification, against, problems, options, checkpoint.sha256, conditions)
    return _verified(report, verification)


def verify_with_golden(path: Path, options: VerifyOptions) -> Verified:
    """Check a bundle against the golden vectors that it carries; needs neither torch nor onnx."""
    _wanted(options, ("onnxruntime",), " without --checkpoint")
    bundle = Bundle.open(path)
    task = _task(bundle, options)
    golden = load_golden(bundle.file(GOLDEN_NAME))
    reference = golden.reference
    opener = _Opener(bundle, options.session)
    with opener.open("onnxruntime") as session:
        verification = Verification(
            {session.runtime: session},
            Case(reference, options.budget, options.seed),
            _plan(options, task, bundle),
            RecordedLongReference(reference),
            opener.open_cell,
            Witnesses({}, opener.graph()),
            golden=golden,
            provider=options.session.provider,
            progress=progress,
        )
        verification.run()
    count, steps = reference.tokens.shape
    against = f"the oracle's golden vectors in the bundle, {count} sequences of {steps} tokens"
    return _verified(_report(bundle, verification, against, (), options, None, None), verification)


def _verified(report: VerifyReport, verification: Verification) -> Verified:
    reference = verification.case.reference
    return Verified(report, {"tokens": reference.tokens, "oracle.logits": reference.logits, **verification.outputs})


@dataclass(frozen=True)
class _Opener:
    """Opens forms of one model, as often as they are wanted."""

    bundle: Bundle
    options: SessionOptions
    checkpoint: Checkpoint | None = None

    def open(self, name: str, threads: int | None = None) -> Session:
        """A form by the name of its runtime, with so many threads inside one operator."""
        if name not in RUN_RUNTIMES:
            threads = self.options.threads if threads is None else threads
            return open_bundle(self.bundle, SessionOptions(self.options.provider, threads))
        from causalrn.cell import RecurrentCell
        from causalrn.runtimes.torch_sessions import ParallelSession, RecurrentSession

        assert self.checkpoint is not None
        model, card, owner = self.checkpoint.model, self.checkpoint.card, self.checkpoint.sha256
        if name == "parallel":
            return ParallelSession(model, card, owner)
        return RecurrentSession(RecurrentCell.from_model(model), card, owner, threads=threads)

    def open_cell(self, name: str, threads: int | None) -> CellSession:
        """A form that carries a state."""
        session = self.open(name, threads)
        assert isinstance(session, CellSession)
        return session

    def graph(self) -> CellSession | None:
        """The bundle's graphs in float64, where onnx is installed."""
        if importlib.util.find_spec("onnx") is None:
            return None
        from causalrn.runtimes.evaluator_session import EvaluatorSession

        return EvaluatorSession(self.bundle)


def _conditions(oracle: Oracle, tokens: IntArray) -> list[dict[str, Any]]:
    import torch

    from causalrn.conditioning import condition_blocks

    return [block.to_json() for block in condition_blocks(oracle.parallel, torch.from_numpy(tokens))]


def _report(
    bundle: Bundle,
    verification: Verification,
    against: str,
    problems: tuple[str, ...],
    options: VerifyOptions,
    checkpoint_sha256: str | None,
    conditions: list[dict[str, Any]] | None,
) -> VerifyReport:
    reference = verification.case.reference
    blocks = block_reports(reference, conditions)
    return VerifyReport(
        bundle=bundle.path,
        bundle_sha256=bundle.sha256,
        checkpoint_sha256=checkpoint_sha256,
        card=bundle.manifest.card,
        against=against,
        results=tuple(verification.results),
        attributions=tuple(verification.attributions),
        blocks=blocks,
        reference={
            "sequences": len(reference.tokens),
            "steps": reference.steps,
            "largest_logit": reference.largest_logit,
            "float64_recurrent_relative_error": reference.recurrent_error,
        },
        settings={
            "levels": list(options.levels),
            "forms": list(verification.forms),
            "seed": options.seed,
            "provider": options.session.provider,
            "threads": options.session.threads,
            "time_budget_s": options.seconds,
            "budget": None if options.budget is None else dict(options.budget.__dict__),
        },
        notes=(
            *_notes(bundle, verification, options),
            *(block.describe() for block in blocks if block.ill_conditioned),
        ),
        problems=problems,
    )


def _notes(bundle: Bundle, verification: Verification, options: VerifyOptions) -> list[str]:
    """What a reader should know beside the results."""
    notes = []
    late = [level for level in verification.not_checked if level != "task" or verification.plan.examples is not None]
    if late:
        why = (
            "--fail-fast" if options.fail_fast and verification.failed else f"the time budget of {options.seconds:g} s"
        )
        notes.append(f"not checked, because of {why}: {', '.join(late)}")
    if "task" in options.levels and verification.plan.examples is None:
        notes.append(f"{_why_no_task(bundle, verification.plan)}: accuracy was not measured")
    capacity, longest = bundle.manifest.state.tensors[0].capacity, verification.longest_run
    if capacity is None or longest < capacity:
        end = "without end" if capacity is None else f"to the capacity of {capacity:,}"
        notes.append(f"compared over at most {longest:,} steps; the model goes on {end}: see --steps and --drift-steps")
    return notes


def _why_no_task(bundle: Bundle, plan: Plan) -> str:
    task = bundle.manifest.card.task
    if task is None:
        return "no task is known for this model"
    if plan.task is None:
        return "the text is not here, name it with --text"
    return f"the task needs {task.capacity} positions, more than there are"


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


def _plan(options: VerifyOptions, task: Task | None, bundle: Bundle) -> Plan:
    capacity = bundle.manifest.state.tensors[0].capacity
    fits = task is not None and (capacity is None or capacity >= task.capacity)
    examples = task.draw("verify", options.samples, options.seed) if task is not None and fits else None
    if options.least_accuracy is not None and examples is None:
        raise InputError(f"--min-accuracy and {bundle.path} contradict each other: accuracy cannot be measured here")
    return Plan(
        levels=options.levels,
        fail_fast=options.fail_fast,
        seconds=options.seconds,
        task=task,
        examples=examples,
        least_accuracy=options.least_accuracy,
        whole_drift=options.drift_steps is not None,
    )


def _wanted(options: VerifyOptions, possible: tuple[str, ...], when: str = "") -> tuple[str, ...]:
    for runtime in options.runtimes:
        if runtime not in RUNTIMES:
            raise InputError(f"runtime {runtime!r} is unknown: choose one of {', '.join(RUNTIMES)}")
        if runtime not in possible:
            raise InputError(f"runtime {runtime} cannot be verified{when}: choose {' or '.join(possible)}")
    return tuple(runtime for runtime in possible if runtime in (options.runtimes or possible))


def _tokens(bundle: Bundle, options: VerifyOptions) -> tuple[IntArray, str]:
    """Token sequences to compare on, and what they are, for people."""
    if options.inputs is not None:
        tokens = _load_inputs(options.inputs, bundle)
        return tokens, f"{len(tokens)} sequences of {tokens.shape[1]} tokens from {options.inputs}"
    steps = _steps(bundle, options)
    rng = random_source("verify", options.seed, 1)
    tokens = sample_tokens(bundle.manifest.card, rng, _SEQUENCES, steps)
    return tokens, f"{_SEQUENCES} sequences of {steps} tokens, seed {options.seed}"


def _load_inputs(path: Path, bundle: Bundle) -> IntArray:
    tokens = load_token_ids(path)
    vocabulary, capacity = bundle.manifest.card.config.vocabulary, bundle.manifest.state.tensors[0].capacity
    if tokens.shape[1] < 2:
        raise InputError(f"{path}: one token per sequence is too short to verify: give at least 2")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise InputError(f"{path}: token ids from {tokens.min()} to {tokens.max()}, the vocabulary is {vocabulary}")
    if capacity is not None and tokens.shape[1] > capacity:
        raise InputError(f"{path}: {tokens.shape[1]} tokens per sequence, the bundle's capacity is {capacity}")
    return tokens.astype(np.int64)


def _steps(bundle: Bundle, options: VerifyOptions) -> int:
    capacity = bundle.manifest.state.tensors[0].capacity
    steps = options.steps or min(capacity or _MOST_STEPS, _MOST_STEPS)
    if capacity is not None and steps > capacity:
        raise InputError(f"--steps {steps} is beyond the bundle's capacity of {capacity}")
    if steps < 2:
        raise InputError(f"{bundle.path}: a capacity of {capacity} is too short to verify: export it with at least 2")
    return steps


def _long_tokens(bundle: Bundle, options: VerifyOptions) -> IntArray:
    """One long sequence, [1, S]."""
    capacity = bundle.manifest.state.tensors[0].capacity
    steps = options.drift_steps or min(capacity or _DRIFT_STEPS, _DRIFT_STEPS)
    if capacity is not None and steps > capacity:
        raise InputError(f"--drift-steps {steps} is beyond the bundle's capacity of {capacity}")
    return sample_tokens(bundle.manifest.card, random_source("verify", options.seed, 2), 1, steps)
