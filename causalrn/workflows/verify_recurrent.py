"""Verification of a recurrent model that users bring: its parallel form against its step, in every way it is used."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalrn.bundle.disk.files import as_path
from causalrn.errors import InputError
from causalrn.runtimes.parity.report import ReferenceSize, Settings, VerifiedBundle, VerifyReport
from causalrn.runtimes.parity.results import ALL_LEVELS, MODEL_LEVELS, Level
from causalrn.runtimes.progress import Progress, no_progress
from causalrn.workflows.arguments import LARGEST_SEED, choice, finite_number, listed, whole_number
from causalrn.workflows.verify_result import VerifyResult

if TYPE_CHECKING:  # torch is not there on a device
    import torch

    from causalrn.model.own.forms import RecurrentForms
    from causalrn.runtimes.own_model.check import OwnCheck

_LARGEST_BATCH, _LEAST_STEPS, _MOST_STEPS = 1024, 4, 1 << 16


def verify_recurrent(
    model: Any = None,
    *,
    parallel: Callable[..., Any] | None = None,
    step: Callable[..., Any] | None = None,
    initial_state: Callable[[int], Any] | None = None,
    prefill: Callable[..., Any] | None = None,
    vocabulary: int | None = None,
    steps: int = 128,
    batch: int = 2,
    seed: int = 0,
    levels: str | Sequence[str] | None = None,
    blocks: Sequence[torch.nn.Module | str] | None = None,
    capacity: int | None = None,
    drift_steps: int = 512,
    time_budget: float = 120.0,
    progress: Progress = no_progress,
) -> VerifyResult:
    """Test whether a model that steps through tokens computes what its parallel form does, and keeps its state clean.

    The modules behind the functions are copied to float64 for the reference; the functions themselves run as they are.
    The copies take five times the memory of float32 weights: one as they were, two in float64. How much rounding is
    allowed is estimated from the model's own operations (docs/parity.md). What the state holds is found out by running
    the model: which tensors grow, along which axis, where the batch is.

    Args:
        model: forms (:class:`causalrn.RecurrentForms`), a mapping of them, or a module that is its own parallel form
            and has `step`, `initial_state` and `vocabulary`; the arguments below go first.
        parallel: int64 [B, T] -> logits [B, T, V].
        step: (tokens int64 [B], state[, position]) -> (logits [B, V], state); a state is any pytree of tensors.
        initial_state: B -> the state before the first token.
        prefill: (tokens int64 [B, T], state[, position][, attention_mask]) -> (logits [B, T, V], state), onto any
            state.
        vocabulary: V.
        steps: T, tokens per sequence.
        batch: sequences; levels that mix rows take at least three.
        seed: of tokens and calls.
        levels: which of "contract", "logits", "state", "split", "layer", "rows", "isolation", "reorder", "padding",
            "positions", "reload", "calls", "drift", "determinism"; None means all that the model has anything for.
        blocks: modules, or their paths, that read the values [B, T, E] between blocks; None takes the module's
            `blocks`, and compares all modules that both forms call.
        capacity: most positions, four or more, to which `steps` and `drift_steps` are cut; None without a bound.
        drift_steps: tokens of the long run, at most.
        time_budget: in seconds; levels that are not reached are named.
        progress: shows progress; see :mod:`causalrn.runtimes.progress`.

    Returns:
        The result, whether it passed or not.

    Raises:
        InputError: functions that are missing, raise something, or give what cannot be a state.

    Example:
        >>> report = verify_recurrent(model, vocabulary=29)  # doctest: +SKIP
        >>> report.passed  # doctest: +SKIP
        True
    """
    from causalrn.model.own.forms import forms_from
    from causalrn.runtimes.own_model.check import OwnCheck, at_least
    from causalrn.runtimes.own_model.model import OwnModel

    given = {"parallel": parallel, "step": step, "initial_state": initial_state, "prefill": prefill}
    named = [choice(name, "levels", ALL_LEVELS) for name in listed(levels, "levels")]
    steps, batch = (
        whole_number(steps, "steps", _LEAST_STEPS, _MOST_STEPS),
        whole_number(batch, "batch", 1, _LARGEST_BATCH),
    )
    seed, drift_steps = whole_number(seed, "seed", 0, LARGEST_SEED), whole_number(drift_steps, "drift_steps", 2)
    seconds = finite_number(time_budget, "time_budget", 1)
    forms = _with_blocks(forms_from(model, given | {"vocabulary": vocabulary, "capacity": capacity}), blocks)
    asked = steps
    if forms.capacity is not None:
        most = whole_number(forms.capacity, "capacity", _LEAST_STEPS)
        steps = min(steps, most)
    tokens = np.random.default_rng(seed).integers(0, forms.vocabulary, (batch, steps), dtype=np.int64)
    of_bundles = [level for level in named if level not in MODEL_LEVELS]
    if of_bundles:
        raise InputError(f"`levels` {of_bundles[0]!r} is of bundles: a model has {', '.join(MODEL_LEVELS)}")
    wanted = tuple(level for level in MODEL_LEVELS if level in (named or MODEL_LEVELS))
    own = OwnModel.of(forms, blocks_are_named=blocks is not None)
    check = OwnCheck(own, at_least(tokens, forms.vocabulary, seed), wanted, seed, seconds, drift_steps, progress)
    if not check.possible():
        raise InputError(f"`levels` {wanted[0]!r} cannot be checked: {_why_not(check, wanted[0])}")
    if steps < asked:
        check.notes.append(f"sequences have {steps} tokens, not {asked}: that is the model's `capacity`")
    check.run()
    return VerifyResult.of(_report(check, wanted), check.verification)


def verify_model_file(place: str, **options: Any) -> VerifyResult:
    """Verify what a function in a file makes, "path/to/file.py:factory"; see :func:`verify_recurrent`.

    Raises:
        InputError: no such file or function, or it raises something.
    """
    path, _, name = place.rpartition(":")
    if not path or not name:
        raise InputError(f"{place!r} names no function in a file: write it as path/to/file.py:factory")
    with _loadable(as_path(path, "model")) as module:
        return verify_recurrent(_made(module, Path(path), name), **options)


@contextlib.contextmanager
def _loadable(path: Path) -> Iterator[types.ModuleType]:
    """A context in which a file is a module, not yet run, that Python finds under a name of its own.

    It may import what lies beside it, and from where the command runs, until the context ends: also in its steps.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file: name a Python file that makes the model")
    spec = importlib.util.spec_from_file_location(f"_causalrn_verified_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file: name one that ends in .py")
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    sys.path[:0] = [str(path.resolve().parent), str(Path.cwd())]
    sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
    try:
        yield module
    finally:
        sys.path[:] = before
        sys.modules.pop(spec.name, None)


def _made(module: types.ModuleType, path: Path, name: str) -> Any:
    """Run a file, and what a factory in it gives."""
    try:
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
        factory = getattr(module, name, None)
        if not callable(factory):
            raise InputError(f"{path} has no function {name!r}: name one that makes the model")
        made = factory()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever that file raises
        raise InputError(f"{path}:{name} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if made is None:
        raise InputError(f"{path}:{name} gave None: it must return the model")
    return made


def _with_blocks(forms: RecurrentForms, blocks: Sequence[torch.nn.Module | str] | None) -> RecurrentForms:
    """The forms with blocks that may be named by their paths."""
    import dataclasses

    from causalrn.model.own.copying import modules_of

    if blocks is None:
        return forms
    paths = {path: part for module in modules_of(forms) for path, part in module.named_modules()}
    found = []
    for block in listed(blocks, "blocks"):
        if isinstance(block, str) and block not in paths:
            raise InputError(f"`blocks` names {block!r}, and the model has no such module")
        found.append(paths[block] if isinstance(block, str) else block)
    return dataclasses.replace(forms, blocks=found or None)


def _report(check: OwnCheck, wanted: Sequence[Level]) -> VerifyReport:
    """The report, in which the model stands where a bundle does."""
    verification, model = check.verification, check.model
    reference, late = verification.case.reference, {*verification.not_checked}
    problems = list(check.problems)
    if late:
        problems.append(f"not checked in time: {', '.join(sorted(late))}; give more with `time_budget`")
    missing = [level for level in wanted if level not in {result.level for result in verification.results} | late]
    form = "parallel form" if check.agreement.agrees else "recurrent form"
    return VerifyReport.of(
        VerifiedBundle(model.forms.title, model.sha256),
        model.card,
        checkpoint_sha256=None,
        against=f"its {form} in float64, {len(reference.tokens)} sequences of {reference.steps} tokens",
        reference=ReferenceSize(
            len(reference.tokens), reference.steps, reference.largest_logit, float(check.agreement.error or 0.0)
        ),
        settings=Settings(
            levels=tuple(wanted),
            runtimes=tuple(verification.runtimes),
            seed=check.seed,
            provider="cpu",
            threads=1,
            gpu=None,
            time_budget_s=check.seconds,
            budget=None,
        ),
        results=verification.results,
        attributions=verification.attributions,
        blocks=(),
        not_checked=[level for level in ALL_LEVELS if level in late],
        notes=[*check.notes, *_not_there(check, missing)],
        problems=problems,
        measured=verification.measured,
        state=model.probe.spec,
    )


def _not_there(check: OwnCheck, missing: Sequence[Level]) -> list[str]:
    return [f"{level} was not checked: {_why_not(check, level)}" for level in missing if level in _WHY_NOT]


def _why_not(check: OwnCheck, level: Level) -> str:
    return (check.model.why_no_layers if level == "layer" else "") or _WHY_NOT[level]


_WHY_NOT: dict[str, str] = {
    "layer": "the model has no `blocks`, and none are named",
    "padding": "neither parallel nor prefill takes an attention_mask",
    "positions": "step takes no position that may be left out",
}
