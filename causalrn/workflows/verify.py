"""Verification of a bundle: against the float64 oracle of its checkpoint, or against the golden vectors in it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import as_path
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.targets import checkpoint_runtimes, runtimes_of_target
from causalrn.errors import GpuFailureError, InputError, NotExecutedError
from causalrn.model.candidates import describe_differences
from causalrn.runtimes import SessionOptions
from causalrn.runtimes.opening import runtime_of, target_of
from causalrn.runtimes.parity.attribution import Comparators
from causalrn.runtimes.parity.block_reports import BlockCondition
from causalrn.runtimes.parity.calls.table import CallTable
from causalrn.runtimes.parity.drift import RecordedLongReference
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.kernels.level import KernelLevel
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import Reference, state_positions
from causalrn.runtimes.parity.results import LEVELS
from causalrn.runtimes.parity.verification import Verification
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.runtimes.snapshot import IntArray
from causalrn.training.card import ModelCard, card_of
from causalrn.training.tasks import TASKS
from causalrn.workflows.arguments import (
    LARGEST_SEED,
    PathLike,
    choice,
    finite_number,
    flag,
    listed,
    optional_choice,
    optional_number,
    optional_path,
    optional_share,
    optional_whole,
    whole_number,
)
from causalrn.workflows.task_choice import chosen_task
from causalrn.workflows.verify_backends import BackendOpener, bundle_sources, open_backends, repeats_recorded
from causalrn.workflows.verify_options import (
    VerifyOptions,
    call_source,
    check_combinations,
    check_levels,
    chosen_budget,
    chosen_tokens,
    every_token,
    long_tokens,
    make_plan,
    possible_levels,
    wanted_runtimes,
)
from causalrn.workflows.verify_result import ReportParts, VerifyResult, make_report

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.runtimes.parity.oracle import CheckpointOracle, Oracle
    from causalrn.training.checkpoint import Checkpoint

_NOISE_SHARE = 0.1


def verify(
    bundle: PathLike,
    *,
    checkpoint: PathLike | None = None,
    level: str | Sequence[str] = (),
    runtime: str | Sequence[str] = (),
    task: str | None = None,
    text: PathLike | None = None,
    samples: int = 1000,
    steps: int | None = None,
    drift_steps: int | None = None,
    load_inputs: PathLike | None = None,
    seed: int = 0,
    provider: str = "cpu",
    threads: int = 1,
    no_cuda_graph: bool = False,
    runtime_cache: PathLike | None = None,
    precision: str = FLOAT32,
    time_budget: float = 300.0,
    fail_fast: bool = False,
    min_accuracy: float | None = None,
    max_kl: float | None = None,
    max_argmax_changes: float | None = None,
    max_accuracy_drop: float | None = None,
    progress: Progress = no_progress,
) -> VerifyResult:
    """Test whether a bundle gives the outputs of the model that was trained, within rounding.

    With a checkpoint, every runtime runs the same sequences as the float64 parallel form (the oracle). Without one, the
    bundle is compared with the oracle's golden vectors that it carries; that needs neither torch nor onnx. How much
    rounding is allowed is estimated from the weights (docs/parity.md).

    Args:
        bundle: folder that `export`, `quantize` or `compile` wrote.
        checkpoint: checkpoint folder that it was exported from.
        level: which of "logits", "state", "split", "layer", "calls", "drift", "task", "determinism", "kernels",
            "guards"; none means all.
        runtime: which runtimes; none means PyTorch's and the bundle's default.
        task: insist on this task of the model.
        text: file that a text model's accuracy is measured on.
        samples: sequences of the task to measure accuracy on.
        steps: tokens per sequence to compare; None takes the capacity, at most 256.
        drift_steps: tokens of the long run; None takes the capacity, at most 4,096, and what time allows.
        load_inputs: .npy file of token ids [B, T] to compare on.
        seed: of sequences and samples.
        provider, threads, no_cuda_graph, runtime_cache, precision: as for :func:`causalrn.open_session`.
        time_budget: in seconds; task and drift stop early where it gets short, and what is not reached is named.
        fail_fast: stop after the first level at which anything fails.
        min_accuracy: fail below this accuracy on the task, in percent.
        max_kl: for a quantized bundle, largest KL divergence in nats.
        max_argmax_changes: for a quantized bundle, positions whose most likely token may change, in percent.
        max_accuracy_drop: for a quantized bundle, percentage points of accuracy that may be lost.
        progress: shows progress; see :mod:`causalrn.runtimes.progress`.

    Returns:
        The result, whether it passed or not.

    Raises:
        InputError: arguments that contradict each other or the bundle.
        BundleError, CheckpointError: a folder that is missing or damaged.

    Example:
        >>> report = verify("bundle", checkpoint="run")  # doctest: +SKIP
        >>> report.passed  # doctest: +SKIP
        True
        >>> report.save_html("report.html")  # doctest: +SKIP
    """
    limits = {
        "kl_divergence": optional_number(max_kl, "max_kl", 0),
        "argmax_changes": optional_share(max_argmax_changes, "max_argmax_changes"),
        "accuracy_drop": optional_share(max_accuracy_drop, "max_accuracy_drop"),
    }
    levels = [choice(name, "level", LEVELS) for name in listed(level, "level")] or LEVELS
    options = VerifyOptions(
        runtime=listed(runtime, "runtime"),
        level=tuple(name for name in LEVELS if name in levels),
        samples=whole_number(samples, "samples", 1),
        steps=optional_whole(steps, "steps", 2),
        drift_steps=optional_whole(drift_steps, "drift_steps", 2),
        seed=whole_number(seed, "seed", 0, LARGEST_SEED),
        task=optional_choice(task, "task", TASKS),
        text=optional_path(text, "text"),
        load_inputs=optional_path(load_inputs, "load_inputs"),
        limits={name: limit for name, limit in limits.items() if limit is not None},
        min_accuracy=optional_share(min_accuracy, "min_accuracy"),
        time_budget=finite_number(time_budget, "time_budget", 1),
        fail_fast=flag(fail_fast, "fail_fast"),
        session=SessionOptions(
            provider, threads, not no_cuda_graph, optional_path(runtime_cache, "runtime_cache"), precision
        ),
    )
    run = optional_path(checkpoint, "checkpoint")
    check_combinations(options, run)
    if run is None:
        return verify_with_golden(as_path(bundle, "bundle"), options, progress)
    return verify_with_checkpoint(as_path(bundle, "bundle"), run, options, progress)


def verify_with_checkpoint(
    path: Path, run: Path, options: VerifyOptions, progress: Progress = no_progress
) -> VerifyResult:
    """Compare parallel, recurrent and exported forms with the float64 oracle of a checkpoint folder."""
    from causalrn.runtimes.parity.oracle import CheckpointOracle
    from causalrn.training.checkpoint import load_checkpoint

    deadline = time.monotonic() + options.time_budget
    bundle, checkpoint = Bundle.open(path), load_checkpoint(run)
    runtimes = checkpoint_runtimes()
    wanted = wanted_runtimes(options, bundle, runtimes)
    options = possible_levels(bundle, options)
    check_levels(bundle, options, wanted)
    card = _common_card(bundle, checkpoint, run)
    task = chosen_task(bundle, options.task, options.text)
    tokens, what = chosen_tokens(bundle, options, task)
    oracle = CheckpointOracle(checkpoint.model, checkpoint.card, sha256=checkpoint.sha256)
    with progress("oracle", 1):
        reference = _reference(oracle, tokens)
        vocabulary = oracle.reference(every_token(card.config.vocabulary), (1,))
        conditions = _conditions(oracle, tokens)
    opener = BackendOpener(bundle, options.session, checkpoint)
    with contextlib.ExitStack() as stack:
        peers = {name: stack.enter_context(opener.open(name)) for name in runtimes}
        sessions, not_executed = open_backends(opener, wanted, peers, stack)
        verification = Verification(
            sessions,
            Case(reference, chosen_budget(bundle, options), options.seed, vocabulary),
            make_plan(options, task, bundle, deadline),
            oracle.long_reference(reference, long_tokens(bundle, options), _NOISE_SHARE * options.time_budget),
            opener.open_cell,
            Comparators(peers, opener.graph(), oracle.states),
            references=partial(_reference, oracle),
            provider=options.session.provider,
            table=partial(_table, oracle, reference, bundle, options),
            sources=dict.fromkeys(runtimes, str(run)) | bundle_sources(bundle),
            progress=progress,
        )
        problems = (*_other_weights(bundle, checkpoint.sha256, run), *_run(verification, opener))
    if bundle.manifest.engine is not None and runtime_of(bundle) not in wanted:
        not_executed = "`runtime` leaves them out"
    against = f"the float64 oracle of {run}, {what}"
    parts = ReportParts(bundle, card, against, options, problems, not_executed, checkpoint.sha256, conditions)
    return VerifyResult.of(make_report(parts, verification), verification)


def verify_with_golden(path: Path, options: VerifyOptions, progress: Progress = no_progress) -> VerifyResult:
    """Check a bundle against the golden vectors that it carries; needs neither torch nor onnx."""
    deadline = time.monotonic() + options.time_budget
    bundle = Bundle.open(path)
    wanted = wanted_runtimes(options, bundle, when=" without `checkpoint`")
    options = possible_levels(bundle, options)
    check_levels(bundle, options, wanted)
    task = chosen_task(bundle, options.task, options.text)
    golden = load_golden(bundle)
    reference = golden.reference
    opener = BackendOpener(bundle, options.session)
    with contextlib.ExitStack() as stack:
        sessions, not_executed = open_backends(opener, wanted, {}, stack)
        verification = Verification(
            sessions,
            Case(reference, chosen_budget(bundle, options), options.seed),
            make_plan(options, task, bundle, deadline),
            RecordedLongReference(reference),
            opener.open_cell,
            Comparators({}, opener.graph()),
            golden=golden,
            repeats_recorded=repeats_recorded(bundle, wanted),
            provider=options.session.provider,
            table=golden.call_table,
            sources=bundle_sources(bundle),
            progress=progress,
        )
        problems = _run(verification, opener)
    count, steps = reference.tokens.shape
    against = f"the oracle's golden vectors in the bundle, {count} sequences of {steps} tokens"
    parts = ReportParts(bundle, card_of(bundle), against, options, problems, not_executed)
    return VerifyResult.of(make_report(parts, verification), verification)


def _common_card(bundle: Bundle, checkpoint: Checkpoint, run: Path) -> ModelCard:
    """The bundle's card; how its architecture is known the RUN knows best, which may have been converted anew since."""
    card = card_of(bundle)
    if card.config != checkpoint.card.config:
        what = describe_differences(card.config, checkpoint.card.config)
        raise InputError(f"{bundle.path} holds another model than {run} ({what}): name the RUN that it comes from")
    return dataclasses.replace(card, known_by=checkpoint.card.known_by or card.known_by)


def _reference(oracle: Oracle, tokens: IntArray) -> Reference:
    return oracle.reference(tokens, state_positions(tokens.shape[1]))


def _table(oracle: Oracle, reference: Reference, bundle: Bundle, options: VerifyOptions) -> CallTable:
    from causalrn.runtimes.parity.calls.oracle_table import make_table

    return make_table(oracle, reference, call_source(options), bundle.manifest.state.capacity)


def _other_weights(bundle: Bundle, sha256: str, run: Path) -> tuple[str, ...]:
    if bundle.manifest.checkpoint_sha256 == sha256:
        return ()
    return (f"the bundle was exported from other weights than those in {run} (SHA-256 differs)",)


def _run(verification: Verification, opener: BackendOpener) -> tuple[str, ...]:
    """Run what can run here; what a GPU breaks off is a problem, and keeps the results so far."""
    case, deadline = verification.case, verification.plan.deadline
    possible = runtimes_of_target(target_of(opener.bundle).name)
    runtime = next((name for name in possible if name in verification.runtimes), possible[0])
    verification.kernels = KernelLevel(runtime, partial(opener.kernels, runtime), case, deadline)
    try:
        if verification.runtimes:
            verification.run()
    except (GpuFailureError, NotExecutedError) as error:  # also where no further session can be opened
        return (f"broken off: {error}",)
    finally:
        verification.kernels.close()
    return ()


def _conditions(oracle: CheckpointOracle, tokens: IntArray) -> list[BlockCondition]:
    import torch

    from causalrn.runtimes.parity.conditioning import condition_blocks

    return condition_blocks(oracle.parallel, torch.from_numpy(tokens))
