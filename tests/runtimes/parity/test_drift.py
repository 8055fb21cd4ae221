"""Long runs: growth is named, and what accumulates slowly is caught before it shows in a short one."""

import numpy as np
import pytest

from causalrn.model.cell import RecurrentCell
from causalrn.runtimes.parity.drift import RecordedLongReference, check_drift
from causalrn.runtimes.parity.growth import Growth, fit_growth
from causalrn.runtimes.parity.levels import Case
from causalrn.runtimes.parity.oracle import CheckpointOracle, OracleLongReference
from causalrn.runtimes.parity.reference import sample_tokens, state_positions
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.card import ModelCard
from tests.builders import random_model

STEPS = np.linspace(300, 10_000, 33)


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (lambda t: 1e-7 + 0 * t, "flat"),
        (lambda t: 1e-7 * (1 + 5 * t / 1e4), "linear"),
        (lambda t: 1e-9 * t, "linear"),
        (lambda t: 1e-7 * np.exp(t / 1e3), "exponential"),
        (lambda t: 1e-5 / t, "flat"),  # an average over more and more
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_growth_is_named_through_scatter(law, name, seed):
    scatter = np.exp(0.25 * np.random.default_rng(seed).standard_normal(len(STEPS)))
    growth = fit_growth(STEPS, law(STEPS) * scatter)
    assert growth.name == name
    if name != "flat":
        assert growth.at(1e4) == pytest.approx(law(1e4), rel=0.5)


def test_few_points_and_no_errors_are_flat():
    assert fit_growth(STEPS[:4], STEPS[:4]) == Growth("flat", pytest.approx(np.median(STEPS[:4])), 0.0)
    assert fit_growth(STEPS, np.zeros(33)) == Growth("flat", 0.0, 0.0)
    assert fit_growth(STEPS, np.full(33, np.nan)).name == "flat"


def _checked(steps, damage=None, seconds=None, **options):
    model = random_model(**options)
    card = ModelCard(model.config)
    rng = np.random.default_rng(0)
    oracle = CheckpointOracle(model, card)
    reference = oracle.reference(sample_tokens(card, rng, 2, 40), state_positions(40))
    session = RecurrentSession(RecurrentCell.from_model(model), card)
    if damage is not None:
        damage(session)
    long = OracleLongReference(oracle, reference, sample_tokens(card, rng, 1, steps), 60.0)
    (result,) = check_drift({"recurrent": session}, long, {"recurrent": Case(reference)}, seconds=seconds)
    return result


STREAM = {"readout": "linear", "positions": "none", "capacity": None}


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "options", [STREAM, {"attention": "linear", "positions": "none", "capacity": None}, {"capacity": 600}], ids=str
)
def test_good_forms_are_flat(options):
    result = _checked(600, **options)
    assert result.passed, result
    assert result.figures.growth.name == "flat"
    assert result.figures.steps == 600
    assert result.figures.curve.steps[-1] == 600


def _after_step(change):
    def damage(session):
        update = session._buffers.update

        def changed(position, outputs):
            update(position, outputs)
            change(session._buffers.arrays, position)

        session._buffers.update = changed

    return damage


def _bias(arrays, position):
    """1e-5 of one channel of block 1 at every step."""
    arrays[3][:, 5] *= np.float32(1 + 1e-5)


def _leak(arrays, position):
    arrays[1] *= np.float32(1 - 2e-7)


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    ("damage", "tensor"), [(_bias, "01.sum"), (_leak, "00.sum")], ids=["bias of 1e-5", "leak of 2e-7"]
)
def test_slow_errors_show_in_long_runs_only_and_are_named(damage, tensor):
    assert _checked(4, _after_step(damage), **STREAM).passed
    result = _checked(3000, _after_step(damage), **STREAM)
    assert not result.passed
    assert result.tensor == tensor
    assert tensor in result.summary


def test_growth_alone_fails_before_the_bound_is_reached():
    """An error that is within tolerance now and will not be at the horizon."""

    def damage(session):
        advance = session._advance

        def growing(tokens, *, single):
            return advance(tokens, single=single) + np.float32(2e-8 * session.position)

        session._advance = growing

    result = _checked(300, damage, **STREAM)
    assert result.figures.growth.name == "linear"
    assert not result.passed
    assert "at 3,000" in result.summary


def test_time_limit_stops_the_run_after_a_stretch():
    result = _checked(600, seconds=0.0, **STREAM)
    assert result.passed
    assert result.figures.steps == 1


def test_device_uses_the_golden_sequence():
    model = random_model()
    card = ModelCard(model.config)
    reference = CheckpointOracle(model, card).reference(
        sample_tokens(card, np.random.default_rng(0), 2, 30), (1, 15, 29)
    )
    session = RecurrentSession(RecurrentCell.from_model(model), card)
    (result,) = check_drift(
        {"recurrent": session}, RecordedLongReference(reference), {"recurrent": Case(reference)}, seconds=None
    )
    assert result.passed
    assert result.figures.steps == 30
