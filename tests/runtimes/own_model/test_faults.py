"""Each fault of faulty_models.py is found, at the right level, and the right thing is blamed; what is right passes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from causalrn import verify_recurrent
from causalrn.errors import InputError
from causalrn.runtimes.parity.report import VerifyReport
from causalrn.runtimes.parity.results import MODEL_LEVELS
from examples.own_model import broken, gated_linear_attention
from tests.runtimes.own_model.faulty_models import FAULTS, RIGHT, Fault, Recurrence

STEPS = 16
QUICK = [level for level in MODEL_LEVELS if level not in ("calls", "drift")]  # which take as long as they may


def blamed(report: VerifyReport) -> str:
    """All that a report holds responsible: tensors of failed results, places and tensors of attributions, problems."""
    failed = [str(result.tensor) for result in report.results if not result.passed]
    traced = [f"{each.tensor} {each.place} {each.verdict}" for each in report.attributions]
    return " | ".join([*failed, *traced, *report.problems])


def is_named(name: str, words: str) -> bool:
    """Whether a path or a name stands there as a whole."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\w)", words) is not None


@pytest.mark.cases(13)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found_and_named(fault: Fault) -> None:
    torch.manual_seed(0)
    model = fault.make().eval()
    if not fault.levels:
        with pytest.raises(InputError, match=re.escape(fault.named[0])):
            verify_recurrent(model, steps=STEPS, levels=QUICK)
        return
    report = verify_recurrent(model, steps=STEPS, levels=QUICK).report
    assert not report.passed
    failed = {result.level for result in report.results if not result.passed}
    assert failed >= set(fault.levels)
    assert any(is_named(name, blamed(report)) for name in fault.named), blamed(report)


@pytest.mark.cases(3)
@pytest.mark.parametrize("steps", [5, 24])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("make", RIGHT)
def test_right_model_passes(make: Callable[[], nn.Module], seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    report = verify_recurrent(make().eval(), steps=steps, levels=QUICK, seed=seed).report
    assert report.passed, blamed(report)
    assert {result.level for result in report.results} >= {"contract", "logits", "state", "split", "rows", "isolation"}


def test_right_model_passes_all_levels() -> None:
    torch.manual_seed(0)
    report = verify_recurrent(Recurrence().eval(), steps=STEPS, drift_steps=48, time_budget=8).report
    assert report.passed, blamed(report)
    levels = {result.level for result in report.results}
    assert levels == set(MODEL_LEVELS) - {"padding", "positions"}  # it takes neither a mask nor a position


def test_model_in_training_mode_is_told_to_be_evaluated() -> None:
    torch.manual_seed(0)
    report = verify_recurrent(Recurrence().train(), steps=STEPS, levels=QUICK).report
    assert not report.passed
    assert "blocks.0.drop, blocks.1.drop draws random numbers: call .eval()" in report.problems[0]
    assert {each.cause for each in report.attributions} == {"randomness"}


@pytest.mark.parametrize(
    ("make", "tensor", "place"),
    [
        (broken.decay_after, "00.ssm", "blocks.0"),
        (broken.convolution_off_by_one, "00.conv", "blocks.0.conv"),
        (broken.position_not_carried, "02.position", "positions"),
    ],
)
def test_broken_example_is_traced_to_its_tensor(make: Callable[[], nn.Module], tensor: str, place: str) -> None:
    report = verify_recurrent(make(), vocabulary=29, steps=STEPS, levels="logits").report
    assert not report.passed
    (attribution,) = report.attributions
    assert (attribution.cause, attribution.tensor, attribution.place) == ("step", tensor, place)


@pytest.mark.cases(0)
def test_textbook_form_that_overflows_is_blamed_and_not_the_step() -> None:
    report = verify_recurrent(gated_linear_attention.make(), vocabulary=29, steps=400, levels="logits").report
    assert {result.runtime: result.passed for result in report.results} == {"parallel": False, "recurrent": True}
    (attribution,) = report.attributions
    assert (attribution.cause, attribution.place) == ("parallel form", "block 0")
    assert "overflows in float32, and not in float64" in attribution.verdict


def test_names_are_told_from_longer_ones() -> None:
    assert is_named("blocks.1", "blocks.1 computes something else")
    assert not is_named("blocks.1", "blocks.1.drop")
    assert not is_named("blocks.1", "blocks.12")
    assert not is_named("kept", "step._OnClass.kept")
