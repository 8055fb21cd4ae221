"""What `quantize` was asked to do, and the tokens, examples and prompts that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import BUDGETS, Budget
from causalrn.calibration.observers import DEFAULT_PERCENTILE
from causalrn.calibration.rollouts import LEAST_SEQUENCES, Prompts
from causalrn.calibration.table import CalibrationTable
from causalrn.errors import CalibrationError, InputError
from causalrn.runtimes.snapshot import IntArray
from causalrn.training.card import card_of
from causalrn.training.tasks import Examples, Task, random_source
from causalrn.workflows.task_choice import chosen_task, fits, why_no_task
from causalrn.workflows.token_ids import checked_token_ids

AUTOMATIC = "auto"
DEFAULT_SEQUENCES = 64
"""To calibrate on."""
_SAMPLES = 1000
_SEQUENCES, _RANDOM_STEPS = 8, 256


@dataclass(frozen=True)
class QuantizeOptions:
    """What to quantize, how, and what may be lost.

    Attributes:
        scheme: one of :data:`causalrn.bundle.quantization.SCHEMES`, or "float32" for pools alone.
        form: of w8 and w4; None for others.
        pool_dtype: element type of pool rows that is asked for; "float32" leaves them as the scheme has them.
        method, percentile: how limits follow from calibration.
        keep_blocks_fp32: how many of the most sensitive blocks stay float32, or :data:`AUTOMATIC`: as few as the
            budget needs.
        sequences: to calibrate on.
        load_inputs: a .npy file of token ids to calibrate and measure on, instead of the task's sequences.
        text: the file that a text model is calibrated and measured on.
        calibration: a table to use; save_calibration: where to write the one that was made.
        samples: sequences of the task to measure accuracy on; None takes 1,000.
        limits: entries of :class:`causalrn.bundle.tolerances.Budget` that the caller sets; others are the scheme's.
        sensitivity: "block", "tensor", or None to rank only what has to be ranked.
    """

    scheme: str
    form: str | None = None
    pool_dtype: str = "float32"
    method: str = "minmax"
    percentile: float = DEFAULT_PERCENTILE
    keep_blocks_fp32: int | str = 0
    sequences: int = DEFAULT_SEQUENCES
    load_inputs: Path | None = None
    text: Path | None = None
    calibration: Path | None = None
    save_calibration: Path | None = None
    samples: int | None = None
    seed: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    sensitivity: str | None = None

    @property
    def budget(self) -> Budget:
        """What the result may lose."""
        return dataclasses.replace(BUDGETS[self.scheme], **self.limits)

    @property
    def needs_table(self) -> bool:
        """Whether something has to be calibrated."""
        return self.scheme == "w8a8" or self.save_calibration is not None


@dataclass(frozen=True)
class Data:
    """Tokens that everything is measured on.

    Attributes:
        tokens: int64 [B, T], for distributions and time.
        task, examples: for accuracy; None where it cannot be measured.
        prompts: to calibrate on; None where nothing is.
        table: given by the user, to be used instead.
        measured_on: where `tokens` come from, for people.
        notes: what a reader should know about them.
    """

    tokens: IntArray
    task: Task | None
    examples: Examples | None
    prompts: Prompts | None
    table: CalibrationTable | None
    measured_on: str
    notes: tuple[str, ...]


def choose_data(bundle: Bundle, options: QuantizeOptions) -> Data:
    """Find what to measure and calibrate on.

    Raises:
        InputError: a file that does not fit, or a gate on accuracy that cannot be measured.
        CalibrationError: nothing to calibrate on, or a table of another model.
    """
    task, notes = chosen_task(bundle, None, options.text), []
    measurable = task is not None and fits(bundle, task)
    if not measurable:
        if "accuracy_drop" in options.limits:
            raise InputError(f"`max_accuracy_drop` cannot be checked: {why_no_task(bundle, task)}")
        if options.samples is not None:
            raise InputError(f"`samples` has no effect: {why_no_task(bundle, task)}")
        notes.append(f"{why_no_task(bundle, task)}: accuracy was not measured")
    ids = None if options.load_inputs is None else checked_token_ids(options.load_inputs, bundle)
    table = None
    if options.calibration is not None:
        table = CalibrationTable.load(options.calibration)
        table.check_fits(bundle, options.calibration)
    prompts = _prompts(bundle, options, task, ids) if options.needs_table and table is None else None
    seen = prompts if table is None else table
    if seen is not None and seen.sequences < LEAST_SEQUENCES:
        notes.append(
            f"calibrated on {seen.source}: fewer than {LEAST_SEQUENCES} sequences show few of the values that will come"
        )
    examples = (
        task.draw("quantize", options.samples or _SAMPLES, options.seed) if task is not None and measurable else None
    )
    tokens, measured_on = _tokens(bundle, options, task, ids)
    return Data(tokens, task if measurable else None, examples, prompts, table, measured_on, tuple(notes))


def _tokens(bundle: Bundle, options: QuantizeOptions, task: Task | None, ids: IntArray | None) -> tuple[IntArray, str]:
    """Whole sequences of the task, the user's, or random ones where there is nothing better; and what they are."""
    capacity = bundle.manifest.state.capacity
    if ids is not None:
        tokens, what = ids[:_SEQUENCES], str(options.load_inputs)
    elif task is not None and task.has_source:
        tokens = task.draw("quantize", _SEQUENCES, options.seed, 1).inputs[:, :capacity]
        what = task.describe()
    else:
        steps = min(capacity or _RANDOM_STEPS, _RANDOM_STEPS)
        rng = random_source("quantize", options.seed, 1)
        tokens = rng.integers(0, card_of(bundle).config.vocabulary, (_SEQUENCES, steps), dtype=np.int64)
        what = "random tokens, which say little of the model's use: name better ones with `load_inputs`"
    return tokens, f"{len(tokens)} sequences of {tokens.shape[1]} tokens ({what})"


def _prompts(bundle: Bundle, options: QuantizeOptions, task: Task | None, ids: IntArray | None) -> Prompts:
    capacity = bundle.manifest.state.capacity
    if ids is not None:
        return Prompts.of_tokens(ids, capacity, str(options.load_inputs))
    if task is None or not task.has_source:
        raise CalibrationError(
            f"nothing to calibrate on ({why_no_task(bundle, task)}): give token ids with `load_inputs`, a .npy file"
        )
    return Prompts.of_task(task, options.sequences, options.seed, capacity)
