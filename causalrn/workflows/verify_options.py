"""What `verify` was asked to check: options, and the tokens, task and runtimes that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.precisions import FLOAT32
from causalrn.bundle.targets import check_runtimes, checkpoint_runtimes, runtimes_of_target
from causalrn.bundle.tolerances import BUDGETS, Budget, wider_budget
from causalrn.errors import InputError
from causalrn.runtimes import SessionOptions
from causalrn.runtimes.opening import runtime_of, target_of
from causalrn.runtimes.parity.plan import Plan
from causalrn.runtimes.parity.reference import sample_tokens
from causalrn.runtimes.parity.results import LEVELS, Level
from causalrn.runtimes.snapshot import IntArray
from causalrn.training.card import card_of
from causalrn.training.tasks import Task, random_source
from causalrn.workflows.task_choice import fits
from causalrn.workflows.token_ids import checked_token_ids

_SEQUENCES, _MOST_STEPS = 4, 256
_DRIFT_STEPS = 4096
_MOST_LOGITS = 1 << 22


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify.

    Attributes:
        runtime: which; none means all.
        level: which of :data:`causalrn.runtimes.parity.results.LEVELS`.
        samples: sequences of the task to measure accuracy on.
        steps: tokens per sequence to compare; None takes the capacity, at most 256.
        drift_steps: steps of the long run, all of them; None takes the capacity, at most 4,096, and what time allows.
        task: the model's task, if the caller insists on one.
        text: the file that a text model's accuracy is measured on.
        load_inputs: a .npy file of token ids to compare on, instead of sampled ones.
        limits: entries of :class:`causalrn.bundle.tolerances.Budget` that the caller sets. None at all: a bundle in
            float32 is judged by rounding, a quantized one by the budget of its scheme.
        min_accuracy: smallest accuracy that passes, 0 to 1.
        time_budget: in seconds.
    """

    runtime: tuple[str, ...] = ()
    level: tuple[Level, ...] = LEVELS
    samples: int = 1000
    steps: int | None = None
    drift_steps: int | None = None
    seed: int = 0
    task: str | None = None
    text: Path | None = None
    load_inputs: Path | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    min_accuracy: float | None = None
    time_budget: float = 300.0
    fail_fast: bool = False
    session: SessionOptions = field(default_factory=SessionOptions)


def check_combinations(options: VerifyOptions, checkpoint: Path | None) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: one that needs a checkpoint, or a level that is not checked.
    """
    drop = options.limits.get("accuracy_drop")
    others = "other tokens than the golden vectors in the bundle"
    needing = (
        ("steps", options.steps, others),
        ("drift_steps", options.drift_steps, others),
        ("load_inputs", options.load_inputs, others),
        ("max_accuracy_drop", drop, "before"),
    )
    for name, value, why in needing:
        if checkpoint is None and value is not None:
            raise InputError(f"`{name}` needs `checkpoint`: there is nothing to compare {why} with")
    if options.steps is not None and options.load_inputs is not None:
        raise InputError("`steps` and `load_inputs` contradict each other: the file says how many tokens there are")
    owned = (
        ("task", "min_accuracy", options.min_accuracy),
        ("task", "max_accuracy_drop", drop),
        ("task", "text", options.text),
        ("drift", "drift_steps", options.drift_steps),
    )
    for level, name, value in owned:
        if level not in options.level and value is not None:
            raise InputError(f"`{name}` and `level` contradict each other: the level {level} is not checked")


def chosen_budget(bundle: Bundle, options: VerifyOptions) -> Budget | None:
    """What the bundle may lose; None judges it by rounding."""
    budget = _scheme_budget(bundle)
    if options.session.precision != FLOAT32:
        budget = wider_budget(budget, BUDGETS[options.session.precision])
    if budget is not None:
        return dataclasses.replace(budget, **options.limits)
    return Budget(**options.limits) if options.limits else None


def _scheme_budget(bundle: Bundle) -> Budget | None:
    """What its scheme may lose, whatever it runs in."""
    quantization, engine = bundle.manifest.quantization, bundle.manifest.engine
    if quantization is not None:
        budget = BUDGETS[quantization.scheme]
        return budget if bundle.manifest.graphs else budget.of_rows()
    if engine is not None and engine.tf32:  # as many bits as float16 has
        return BUDGETS["fp16"]
    return None


def make_plan(options: VerifyOptions, task: Task | None, bundle: Bundle, deadline: float) -> Plan:
    """What to check, with examples of the task if it fits into the bundle.

    Raises:
        InputError: a gate on accuracy, and nothing to measure it on.
    """
    examples = task.draw("verify", options.samples, options.seed) if task is not None and fits(bundle, task) else None
    gates = {"min_accuracy": options.min_accuracy, "max_accuracy_drop": options.limits.get("accuracy_drop")}
    for name, limit in gates.items():
        if limit is not None and examples is None:
            raise InputError(f"`{name}` and {bundle.path} contradict each other: accuracy cannot be measured here")
    return Plan(
        levels=options.level,
        fail_fast=options.fail_fast,
        deadline=deadline,
        task=task,
        examples=examples,
        least_accuracy=options.min_accuracy,
        whole_drift=options.drift_steps is not None,
    )


def wanted_runtimes(
    options: VerifyOptions, bundle: Bundle, peers: tuple[str, ...] = (), when: str = ""
) -> tuple[str, ...]:
    """The runtimes that were asked for, of the peers and the bundle's; the peers and the bundle's default if none was.

    Raises:
        InputError: an unknown one, or one that is not possible (`when` says why).
    """
    default, possible = runtime_of(bundle), (*peers, *runtimes_of_target(target_of(bundle).name))
    check_runtimes(options.runtime)
    for runtime in options.runtime:
        if runtime not in possible:
            why = when if runtime in checkpoint_runtimes() else " on this bundle"
            raise InputError(f"runtime {runtime} cannot be verified{why}: choose {' or '.join(possible)}")
    return tuple(runtime for runtime in possible if runtime in (options.runtime or (*peers, default)))


def possible_levels(bundle: Bundle, options: VerifyOptions) -> VerifyOptions:
    """The same options, without a level that not all bundles have, where all were asked for."""
    shows = bundle.manifest.shows_streams and bool(bundle.manifest.streams)
    if shows or options.level != LEVELS:
        return options
    return dataclasses.replace(options, level=tuple(level for level in LEVELS if level != "layer"))


def check_levels(bundle: Bundle, options: VerifyOptions, runtimes: tuple[str, ...]) -> None:
    """Refuse levels at which there would be nothing to see.

    Raises:
        InputError: a runtime without a state alone, or one that does not show what happens between blocks.
    """
    if runtimes == ("parallel",) and not set(options.level) & {"logits", "layer", "task"}:
        raise InputError(f"`runtime` parallel and `level` {options.level[0]} contradict each other: it has no state")
    if "layer" in options.level and not bundle.manifest.shows_streams:
        what = f"{runtime_of(bundle)} does" if bundle.manifest.engine is None else "engines do"
        what = what if bundle.manifest.web is None else "onnxruntime-web does"
        raise InputError(f"{bundle.path}: {what} not show what happens between blocks: `level` layer is for ONNX and C")


def every_token(vocabulary: int) -> IntArray:
    """Sequences of two tokens in which every id occurs at both positions, [V, 2].

    Logits for them grow as the square of the vocabulary: beyond 2,048 ids, as many as memory allows, evenly spread.
    """
    count = min(vocabulary, max(2, _MOST_LOGITS // vocabulary))
    ids = np.linspace(0, vocabulary - 1, count).astype(np.int64)
    return np.stack([ids, ids[::-1]], axis=1)


def chosen_tokens(bundle: Bundle, options: VerifyOptions, task: Task | None) -> tuple[IntArray, str]:
    """Token sequences to compare on, and what they are, for people.

    Raises:
        InputError: a file that does not fit the model, or more steps than there are positions.
    """
    if options.load_inputs is not None:
        tokens = checked_token_ids(options.load_inputs, bundle)
        return tokens, f"{len(tokens)} sequences of {tokens.shape[1]} tokens from {options.load_inputs}"
    steps = _steps(bundle, options)
    rng, card = random_source("verify", options.seed, 1), card_of(bundle)
    tokens = sample_tokens(card if task is None else dataclasses.replace(card, task=task), rng, _SEQUENCES, steps)
    return tokens, f"{_SEQUENCES} sequences of {steps} tokens, seed {options.seed}"


def _steps(bundle: Bundle, options: VerifyOptions) -> int:
    capacity = bundle.manifest.state.capacity
    steps = options.steps or min(capacity or _MOST_STEPS, _MOST_STEPS)
    if capacity is not None and steps > capacity:
        raise InputError(f"`steps` {steps} is beyond the bundle's capacity of {capacity}")
    if steps < 2:
        raise InputError(f"{bundle.path}: a capacity of {capacity} is too short to verify: export it with at least 2")
    return steps


def call_source(options: VerifyOptions) -> np.random.Generator:
    """Where the tokens of calls are drawn from."""
    return random_source("verify", options.seed, 3)


def long_tokens(bundle: Bundle, options: VerifyOptions) -> IntArray:
    """One long sequence, [1, S].

    Raises:
        InputError: more steps than there are positions.
    """
    capacity = bundle.manifest.state.capacity
    steps = options.drift_steps or min(capacity or _DRIFT_STEPS, _DRIFT_STEPS)
    if capacity is not None and steps > capacity:
        raise InputError(f"`drift_steps` {steps} is beyond the bundle's capacity of {capacity}")
    return sample_tokens(card_of(bundle), random_source("verify", options.seed, 2), 1, steps)
