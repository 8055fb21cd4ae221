"""One verification as `verify` and `demo` drive it: opens the forms, makes the reference, shows progress."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import LARGEST_BOUND
from causalrn.cli.console import progress
from causalrn.errors import GpuFailureError, InputError, NotExecutedError
from causalrn.runtimes.opening import RUN_RUNTIMES, runtime_of
from causalrn.runtimes.parity.attribution import Comparators
from causalrn.runtimes.parity.drift import RecordedLongReference
from causalrn.runtimes.parity.golden import load_golden
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.reference import state_positions
from causalrn.runtimes.parity.report import VerifyReport, block_reports
from causalrn.runtimes.parity.results import LEVELS
from causalrn.runtimes.parity.verification import Verification
from causalrn.runtimes.session import Array, IntArray
from causalrn.training.card import card_of
from causalrn.workflows.task_choice import chosen_task, why_no_task
from causalrn.workflows.verify_backends import FormOpener, open_forms
from causalrn.workflows.verify_options import (
    VerifyOptions,
    check_levels,
    chosen_budget,
    chosen_tokens,
    every_token,
    long_tokens,
    make_plan,
    possible_levels,
    wanted_runtimes,
)

if TYPE_CHECKING:  # torch is not there on a device
    from causalrn.runtimes.parity.oracle import Oracle

_NOISE_SHARE = 0.1


@dataclass(frozen=True)
class Verified:
    """A report, and what the forms said: token ids, the oracle's logits, and each form's."""

    report: VerifyReport
    outputs: dict[str, Array]


def verify_with_checkpoint(path: Path, run: Path, options: VerifyOptions) -> Verified:
    """Compare parallel, recurrent and exported forms with the float64 oracle of a RUN."""
    from causalrn.runtimes.parity.oracle import Oracle, OracleLongReference
    from causalrn.training.checkpoint import load_checkpoint

    deadline = time.monotonic() + options.seconds
    bundle, checkpoint = Bundle.open(path), load_checkpoint(run)
    wanted = wanted_runtimes(options, (*RUN_RUNTIMES, runtime_of(bundle)))
    options = possible_levels(bundle, options)
    check_levels(bundle, options, wanted)
    if card_of(bundle).config != checkpoint.card.config:
        raise InputError(f"{path} holds another model than {run}: {card_of(bundle).config.describe()}")
    task = chosen_task(bundle, options.task, options.text)
    tokens, what = chosen_tokens(bundle, options, task)
    oracle = Oracle(checkpoint.model, checkpoint.card)
    with progress("oracle", 1):
        reference = oracle.reference(tokens, state_positions(tokens.shape[1]))
        vocabulary = oracle.reference(every_token(checkpoint.card.config.vocabulary), (1,))
        conditions = _conditions(oracle, tokens)
    long = OracleLongReference(oracle, reference, long_tokens(bundle, options), _NOISE_SHARE * options.seconds)
    problems: tuple[str, ...] = ()
    if bundle.manifest.checkpoint_sha256 != checkpoint.sha256:
        problems = (f"the bundle was exported from other weights than those in {run} (SHA-256 differs)",)
    opener = FormOpener(bundle, options.session, checkpoint)
    with contextlib.ExitStack() as stack:
        peers = {name: stack.enter_context(opener.open(name)) for name in RUN_RUNTIMES}
        forms, not_executed = open_forms(opener, wanted, peers, stack)
        if bundle.manifest.engine is not None and runtime_of(bundle) not in wanted:
            not_executed = "--runtime leaves them out"
        verification = Verification(
            forms,
            Case(reference, chosen_budget(bundle, options), options.seed, vocabulary),
            make_plan(options, task, bundle, deadline),
            long,
            opener.open_cell,
            Comparators(peers, opener.graph(), oracle.states),
            references=lambda tokens: oracle.reference(tokens, state_positions(tokens.shape[1])),
            provider=options.session.provider,
            progress=progress,
        )
        problems += _run(verification)
    against = f"the float64 oracle of {run}, {what}"
    report = _report(bundle, verification, against, problems, options, checkpoint.sha256, conditions, not_executed)
    return _verified(report, verification)


def verify_with_golden(path: Path, options: VerifyOptions) -> Verified:
    """Check a bundle against the golden vectors that it carries; needs neither torch nor onnx."""
    deadline = time.monotonic() + options.seconds
    bundle = Bundle.open(path)
    wanted = wanted_runtimes(options, (runtime_of(bundle),), " without --checkpoint")
    options = possible_levels(bundle, options)
    check_levels(bundle, options, wanted)
    task = chosen_task(bundle, options.task, options.text)
    golden = load_golden(bundle)
    reference = golden.reference
    opener = FormOpener(bundle, options.session)
    with contextlib.ExitStack() as stack:
        forms, not_executed = open_forms(opener, wanted, {}, stack)
        verification = Verification(
            forms,
            Case(reference, chosen_budget(bundle, options), options.seed),
            make_plan(options, task, bundle, deadline),
            RecordedLongReference(reference),
            opener.open_cell,
            Comparators({}, opener.graph()),
            golden=golden,
            repeats_recorded=_repeats_recorded(bundle),
            provider=options.session.provider,
            progress=progress,
        )
        problems = _run(verification)
    count, steps = reference.tokens.shape
    against = f"the oracle's golden vectors in the bundle, {count} sequences of {steps} tokens"
    return _verified(_report(bundle, verification, against, problems, options, None, None, not_executed), verification)


def _run(verification: Verification) -> tuple[str, ...]:
    """Run what can run here; what a GPU breaks off is a problem, and keeps the results so far."""
    try:
        if verification.runtimes:
            verification.run()
    except (GpuFailureError, NotExecutedError) as error:  # also where no further session can be opened
        return (f"broken off: {error}",)
    return ()


def _verified(report: VerifyReport, verification: Verification) -> Verified:
    reference = verification.case.reference
    return Verified(report, {"tokens": reference.tokens, "oracle.logits": reference.logits, **verification.outputs})


def _repeats_recorded(bundle: Bundle) -> bool:
    """Whether the runtime should say what onnxruntime recorded: another one rounds to other integers, or TF32."""
    engine = bundle.manifest.engine
    return engine is None or (bundle.manifest.quantization is None and not engine.tf32)


def _conditions(oracle: Oracle, tokens: IntArray) -> list[dict[str, Any]]:
    import torch

    from causalrn.runtimes.parity.conditioning import condition_blocks

    return [block.to_json() for block in condition_blocks(oracle.parallel, torch.from_numpy(tokens))]


def _report(
    bundle: Bundle,
    verification: Verification,
    against: str,
    problems: tuple[str, ...],
    options: VerifyOptions,
    checkpoint_sha256: str | None,
    conditions: list[dict[str, Any]] | None,
    not_executed: str,
) -> VerifyReport:
    reference, budget = verification.case.reference, verification.case.budget
    blocks = block_reports(reference, conditions)
    return VerifyReport(
        bundle=bundle.path,
        bundle_sha256=bundle.sha256,
        checkpoint_sha256=checkpoint_sha256,
        card=card_of(bundle),
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
            "forms": list(verification.runtimes),
            "seed": options.seed,
            "provider": options.session.provider,
            "threads": options.session.threads,
            "gpu": next((session.gpu for session in verification.runtimes.values() if session.gpu), None),
            "time_budget_s": options.seconds,
            "budget": None if budget is None else dict(budget.__dict__),
        },
        not_checked=tuple(level for level in LEVELS if level in {*verification.not_checked, *verification.impossible}),
        notes=(*_notes(bundle, verification), *(block.describe() for block in blocks if block.ill_conditioned)),
        problems=(*problems, *_problems(verification, options)),
        not_executed=not_executed,
    )


def _problems(verification: Verification, options: VerifyOptions) -> list[str]:
    """What keeps a verification from passing beside its results."""
    problems, reference = [], verification.case.reference
    bound = float(reference.bounds.logits[-1]) / reference.largest_logit
    if not bound <= LARGEST_BOUND and verification.case.budget is None:
        problems.append(
            f"rounding alone may move the logits by {bound:.0e} of the largest: these weights are so ill-conditioned "
            "that agreement in float32 proves nothing"
        )
    late = verification.not_checked
    if late and options.fail_fast and verification.failed:
        problems.append(f"not checked, because of --fail-fast: {', '.join(late)}")
    elif late:
        problems.append(f"not checked within {options.seconds:g} s: {', '.join(late)}; give more with --time-budget")
    return problems


def _notes(bundle: Bundle, verification: Verification) -> list[str]:
    """What a reader should know beside the results."""
    notes, plan = [], verification.plan
    if not verification.runtimes:
        return ["its files and manifest are whole; what the engines compute was not looked at"]
    if verification.golden is not None and not verification.repeats_recorded:
        notes.append("onnxruntime recorded logits with other roundings: they were not compared")
    if "task" in plan.levels and plan.examples is None:
        notes.append(f"{why_no_task(bundle, plan.task)}: accuracy was not measured")
    if plan.examples is not None and 0 < verification.answered < len(plan.examples):
        notes.append(
            f"there was time for {verification.answered:,} of {len(plan.examples):,} sequences of the task: see "
            "--time-budget"
        )
    stateless = [level for level in verification.impossible if level != "task"]
    if stateless:
        notes.append(f"nothing that was verified carries a state: {', '.join(stateless)} were not checked")
    if not any(name not in RUN_RUNTIMES for name in verification.runtimes):
        notes.append("the bundle itself was not run: this says nothing about it")
    capacity, longest = bundle.manifest.state.capacity, verification.longest_run
    if capacity is None or longest < capacity:
        end = "without end" if capacity is None else f"to the capacity of {capacity:,}"
        more = "see --steps and --drift-steps" if verification.golden is None else "a --checkpoint reaches further"
        notes.append(f"compared over at most {longest:,} steps; the model goes on {end}: {more}")
    return notes
