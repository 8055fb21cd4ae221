"""Rounding as noise: bounded, keyed by the value, and as large as what float32 does."""

import pytest
import torch

from causalrn.bundle.tolerances import UNIT_ROUNDOFF
from causalrn.runtimes.parity.rounding_noise import RoundingNoise

UNIT = UNIT_ROUNDOFF


def _noisy(function, *arguments, seed=0):
    with torch.inference_mode(), RoundingNoise(seed):
        return function(*arguments)


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "ulps"), [(torch.add, 1), (torch.mul, 1), (torch.div, 1), (lambda a, b: torch.exp(a), 2)]
)
def test_elementwise_errors_stay_within_their_ulps_and_fill_them(function, ulps):
    a, b = _random(4000), _random(4000, seed=1).abs() + 0.5
    errors = (_noisy(function, a, b) / function(a, b) - 1).abs() / UNIT
    assert 0.95 * ulps < float(errors.max()) <= ulps * (1 + 1e-6)
    assert float(errors.mean()) == pytest.approx(ulps / 2, rel=0.1)  # uniform


def test_errors_have_no_bias():
    ones = torch.linspace(1, 2, 20000, dtype=torch.float64)
    assert abs(float((_noisy(torch.mul, ones, ones) / ones**2 - 1).mean())) < 0.02 * UNIT


def test_equal_values_get_equal_errors_and_seeds_differ():
    x = _random(8).repeat(3, 1)
    one, two = (_noisy(torch.exp, x, seed=seed) for seed in (1, 2))
    assert (one == one[:1]).all()
    assert not (one == two).any()
    assert (one == _noisy(torch.exp, x, seed=1)).all()


def test_what_does_not_round_is_left_alone():
    x = _random(6, 6)
    for function in (torch.t, torch.relu, torch.tril, lambda x: x.amax(-1), lambda x: torch.cat([x, x])):
        assert (_noisy(function, x) == function(x)).all()
    assert (_noisy(torch.exp, x.float()) == x.float().exp()).all()  # only float64 is perturbed
    assert (_noisy(torch.add, torch.tensor([1, 2]), 1) == torch.tensor([2, 3])).all()


def test_masked_scores_stay_masked():
    scores = torch.tensor([[0.3, -torch.inf]], dtype=torch.float64)
    assert _noisy(torch.add, scores, scores)[0, 1] == -torch.inf
    assert _noisy(lambda s: torch.softmax(s, -1), scores)[0, 1] == 0


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: torch.nn.functional.linear(x, w),
        lambda x, w: x @ w.t(),
        lambda x, w: torch.addmm(x @ w.t(), x, w.t()),
        lambda x, w: (x * w[:1]).sum(-1),
        lambda x, w: (x * w[:1]).mean(-1),
        lambda x, w: (x * w[:1]).cumsum(-1),
        lambda x, w: torch.rms_norm(x, (x.shape[-1],)),
        lambda x, w: torch.layer_norm(x + 3, (x.shape[-1],)),
        lambda x, w: torch.nn.functional.gelu(x),
        lambda x, w: torch.nn.functional.elu(x),
    ],
)
def test_noise_is_as_large_as_float32_rounding_and_not_much_larger(function, positive):
    """The right inputs, one float32 operation: errors are compared as root mean squares."""
    x, w = _random(64, 300), _random(40, 300) if not positive else _random(40, 300).abs()
    x = (x.abs() if positive else x).float().double()
    w = w.float().double()
    expected = function(x, w)
    rounded = (function(x.float(), w.float()).double() - expected).square().mean().sqrt()
    drawn = (_noisy(function, x, w) - expected).square().mean().sqrt()
    assert drawn > 0.7 * rounded
    assert drawn < 40 * rounded or rounded == 0  # elu of what is positive


def test_calls_of_a_model_begin_anew_with_the_same_errors():
    layer = torch.nn.Linear(5, 5).double()
    x = _random(1, 5)
    with torch.inference_mode(), RoundingNoise(0, layer):
        assert (layer(x) == layer(x)).all()
    with torch.inference_mode(), RoundingNoise(0):
        assert not (layer(x) == layer(x)).all()
    assert (layer(x) == layer(x)).all()


def test_in_place_and_out_operations_are_perturbed_where_they_write():
    x = _random(100)
    for operation in (lambda y: y.mul_(3), lambda y: torch.exp(y, out=y), lambda y: y[:50].add_(1)):
        with torch.inference_mode():
            expected, noisy = x.clone(), x.clone()
            operation(expected)
            with RoundingNoise(0):
                operation(noisy)
        changed = (noisy != expected).sum()
        assert changed >= 50
        assert (noisy / expected - 1).abs().max() < 4 * UNIT


def test_running_sums_of_equal_terms_drift_and_others_do_not():
    """Adding the same number again rounds the same way, as long as the exponent stays."""

    def errors(terms):
        total, expected, found = torch.zeros(200, dtype=torch.float64), torch.zeros(200, dtype=torch.float64), []
        with torch.inference_mode(), RoundingNoise(0, model):
            for term in terms:
                model(term)  # a step
                total = total + term
        expected = terms.sum(0)
        found.append(((total - expected) / expected).square().mean().sqrt())
        return float(found[0])

    model = torch.nn.Identity()
    one = _random(1, 200).abs() + 1
    many = _random(400, 200).abs() + 1
    assert errors(one.repeat(400, 1)) > 4 * errors(many)
