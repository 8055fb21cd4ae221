"""Levels that need a model's functions themselves: the state contract, padding, positions left out, reloading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from causalrn.model.own.copying import copied, modules_of
from causalrn.model.own.forms import RecurrentForms
from causalrn.model.own.state_probe import StateProbe
from causalrn.runtimes.own_model.isolation import repeat_bound
from causalrn.runtimes.own_model.sessions import forward, state_bytes, step_through
from causalrn.runtimes.parity.figures import CheckFigures, Figures
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.results import Level, LevelResult
from causalrn.runtimes.snapshot import FloatArray

MOST_STEPS = 32


def check_contract(probe: StateProbe, irregular: Mapping[str, str], narrow: Sequence[tuple[str, str]]) -> LevelResult:
    """Whether the state can be told: a row per token or none, one dtype, an axis for the batch.

    Args:
        irregular: by tensor that had another shape than the contract says, what was seen, in words.
        narrow: tensors that a float64 model carries in fewer bits than it computes in, with their dtype.
    """
    named = {fault.tensor: fault.words for fault in reversed(probe.faults) if fault.kind in ("dtype", "shape", "batch")}
    for name, words in irregular.items():
        named.setdefault(name, f"{name} has the shape {words}")
    for name, dtype in narrow:
        named.setdefault(name, f"{name} is carried in {dtype}, whatever the model computes in")
    checks = [
        CheckFigures(t.name, t.name not in named, named.get(t.name, "as it should be")) for t in probe.spec.tensors
    ]
    wrong = [check for check in checks if not check.passed]
    return LevelResult(
        "contract",
        "recurrent",
        not wrong,
        wrong[0].outcome if wrong else describe_state(probe),
        tensor=wrong[0].name if wrong else None,
        figures=Figures(checks=tuple(checks)),
    )


def describe_state(probe: StateProbe) -> str:
    """A state in a few words: "4 tensors of constant size, 8,192 bytes"."""
    spec = probe.spec
    count = f"{len(spec.tensors)} tensor{'s' if len(spec.tensors) > 1 else ''}"
    growing = sum(tensor.is_pool for tensor in spec.tensors)
    constant = f"{state_bytes(spec, 0):,} bytes"
    if not growing:
        return f"{count} of constant size, {constant}"
    which = "growing" if growing == len(spec.tensors) else f"{growing} of which grow"
    return f"{count}, {which} by {spec.bytes_per_token:,} bytes per token"


def check_positions(forms: RecurrentForms, case: Case) -> list[LevelResult]:
    """Steps that are told their position, and steps that find it out."""
    if not forms.may_omit_position:
        return []
    tokens = case.reference.tokens[:, :MOST_STEPS]
    errors = np.abs(step_through(forms, tokens) - step_through(forms, tokens, tell=False)).max((0, 2))
    return [by_steps("positions", "recurrent", errors, case, "position given, and left out", repeated=True)]


def check_reload(forms: RecurrentForms, pristine: RecurrentForms, case: Case) -> list[LevelResult]:
    """What the modules have saved after they ran, loaded into modules that never have.

    Args:
        forms: that have run.
        pristine: copies from before.
    """
    fresh = copied(pristine)
    tokens = case.reference.tokens[:, :MOST_STEPS]
    for used, other in zip(modules_of(forms), modules_of(fresh), strict=True):
        try:
            other.load_state_dict(used.state_dict())
        except RuntimeError as error:
            words = " ".join(str(error).split()).partition(": ")[2]
            return [LevelResult("reload", "parallel", False, f"what was saved cannot be loaded: {words}")]
    words = "saved after a run, and loaded"
    runs: dict[str, Callable[[RecurrentForms], FloatArray]] = {
        "parallel": lambda each: forward(each, tokens),
        "recurrent": lambda each: step_through(each, tokens),
    }
    return [
        by_steps("reload", name, np.abs(run(forms) - run(fresh)).max((0, 2)), case, words, repeated=True)
        for name, run in runs.items()
    ]


def by_steps(
    level: Level, runtime: str, errors: FloatArray, case: Case, words: str, *, repeated: bool = False
) -> LevelResult:
    """Judge differences of logits, [T], by the bounds of both runs; or of the same operations, `repeated`."""
    reference = case.reference
    allowed = 2 * reference.bounds.logits[: len(errors)]
    if repeated:
        allowed = np.full(len(errors), repeat_bound(reference, len(errors)) * reference.largest_logit)
    bad = np.flatnonzero(~(errors <= allowed))
    worst = int(np.argmax(np.nan_to_num(errors, nan=np.inf) / allowed))
    first = None if not len(bad) else int(bad[0])
    return LevelResult(
        level,
        runtime,
        first is None,
        words if first is None else f"{words}: other logits from step {first} on",
        float(errors[worst]) / reference.largest_logit,
        float(allowed[worst]) / reference.largest_logit,
        first,
        tensor=None if first is None else "logits",
    )
