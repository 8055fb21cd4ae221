"""Rounding as noise: bounded, keyed by the value, and as large as what float32 does."""

import functools

import numpy as np
import pytest
import torch

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.tolerances import UNIT_ROUNDOFF
from causalrn.model.operators import c_library
from causalrn.model.operators.pair_sum import pair_sum
from causalrn.runtimes.parity.oracle import CheckpointOracle
from causalrn.runtimes.parity.reference import run_in_chunks
from causalrn.runtimes.rounding.noise import RoundingNoise
from causalrn.training.card import ModelCard
from causalrn.training.tasks import CopyTask
from tests.builders import random_model
from tests.c_tools import needs_c_compiler

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
    assert (_noisy(torch.exp, x.half()) == x.half().exp()).all()  # only float64 and float32 are perturbed
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


EVERY_FUNCTION = [
    (activation, norm) for activation in ("exp", "relu", "elu", "gelu") for norm in ("layer", "rms", None)
]


def _pair_sum(activation, norm, q, k):
    return pair_sum(q, k, activation=activation, norm=norm)


def _errors_of_sums(function, q, k, seeds):
    """Root mean square errors of sums over pairs, in C and where every operation of the tiles is perturbed."""
    exact = function(q, k)
    in_c = torch.stack([_noisy(function, q, k, seed=seed) for seed in seeds]) - exact
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c_library, "why_not", lambda *_: "not here")
        in_tiles = torch.stack([_noisy(function, q, k, seed=seed) for seed in seeds]) - exact
    assert not (in_c == in_tiles).all()
    return in_c.square().mean().sqrt(), in_tiles.square().mean().sqrt()


@pytest.mark.cases(4)
@needs_c_compiler
@pytest.mark.parametrize(("activation", "norm"), EVERY_FUNCTION)
def test_errors_of_pairs_in_c_are_as_large_as_those_of_single_operations(activation, norm):
    q, k = _random(2, 5, 2, 21), _random(2, 40, 2, 21, seed=1)
    in_c, in_tiles = _errors_of_sums(functools.partial(_pair_sum, activation, norm), q, k, range(20))
    assert 0.6 * in_tiles < in_c < 2.5 * in_tiles


@needs_c_compiler
def test_equal_pairs_in_c_get_equal_errors_and_seeds_differ():
    """Which then add up, instead of cancelling: so they do in a prompt of one repeated token."""
    function = functools.partial(_pair_sum, "exp", "rms")
    q, key = _random(1, 1, 1, 24), _random(1, 1, 1, 24, seed=1)
    once = [_noisy(function, q, key, seed=seed) / function(q, key) - 1 for seed in (1, 2)]
    keys = key.expand(1, 8, 1, 24)
    often = _noisy(function, q, keys, seed=1) / function(q, keys) - 1
    assert (often - once[0]).abs().max() < 3 * UNIT, "what adding up 8 equal terms and one loses"
    assert (once[0] - once[1]).abs().median() > UNIT
    rows = _noisy(function, q.expand(3, 1, 1, 24), key.expand(3, 1, 1, 24), seed=1)
    assert (rows == rows[:1]).all()


@needs_c_compiler
def test_padding_of_rows_makes_no_errors():
    """Channels are filled up to whole vectors inside."""
    function = functools.partial(_pair_sum, "gelu", "rms")
    for width in (1, 3, 16, 17):
        q, k = _random(1, 2, 1, width), _random(1, 3, 1, width, seed=1)
        assert (_noisy(function, q, k) - function(q, k)).abs().max() < 40 * UNIT * 3


@needs_c_compiler
def test_a_prefill_makes_the_errors_of_steps():
    model = random_model(blocks=2)
    card = ModelCard(model.config, Alphabet("letters"), CopyTask(15))
    oracle = CheckpointOracle(model, card)
    tokens = np.random.default_rng(0).integers(0, 29, (2, 30))
    with torch.inference_mode():
        exact = run_in_chunks(oracle.rounded, tokens, [30]).logits
        outputs = []
        for chunks in ([1] * 30, [30], [7, 1, 22]):
            with RoundingNoise(3, oracle.rounded_cell):
                outputs.append(run_in_chunks(oracle.rounded, tokens, chunks).logits)
    steps, *prefills = outputs
    for prefill in prefills:
        # sums of products in float64 end with another last bit, by which a few values get another error
        assert np.median(np.abs(prefill - steps)) < 0.02 * np.median(np.abs(steps - exact))
