"""The parallel form against the authors' numbers and against its own definition."""

import numpy as np
import pytest
import torch

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.model.readouts import naive
from tests.builders import EPS_CASES, GOLDEN_CASES, golden_case, random_model, random_tokens, relative_error

FAMILY = [
    {"readout": readout, "activation": activation, "post_norm": post_norm}
    for readout in ("exact", "linear", "plain")
    for activation in ("exp", "elu", "relu", "gelu")
    for post_norm in (True, False)
]
EPS = [
    {"readout": readout, "norm": norm, "norm_eps": eps, **options}
    for readout, options in (
        ("exact", {}),
        ("exact", {"heads": 2}),
        ("exact", {"heads": 2, "head_scale": "none"}),
        ("exact", {"post_norm": False}),
        ("exact", {"activation": "relu"}),
        ("linear", {}),
        ("linear", {"head_scale": "none"}),
        ("linear", {"post_norm": False}),
        ("plain", {}),
    )
    for norm, eps in (("layer", 1e-5), ("rms", 1e-2), ("layer", 1e-2))
]
BASELINES = [
    {"attention": attention, "heads": heads, "norm": norm}
    for attention in ("softmax", "linear")
    for heads, norm in ((1, "layer"), (4, "rms"))
]


def _definition(model):
    return naive.attention if hasattr(model.config, "attention") else naive.readout


@pytest.mark.parametrize("name", [*GOLDEN_CASES, *EPS_CASES])
def test_parallel_float64_equals_official_code(name):
    model, tokens, expected = golden_case(name)
    assert (model.oracle()(tokens) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("name", [*GOLDEN_CASES, *EPS_CASES])
def test_parallel_float32_is_within_tolerance_of_official_code(name):
    model, tokens, expected = golden_case(name)
    with torch.no_grad():
        error = (model(tokens) - expected).abs().max()
    assert error <= TOLERANCES["float32", "parallel"].logit_bound(float(expected.abs().max()))


@pytest.mark.parametrize("options", FAMILY + EPS + BASELINES, ids=lambda o: "-".join(map(str, o.values())))
def test_parallel_equals_definition(options):
    oracle = random_model(**options).oracle()
    tokens = random_tokens(oracle.config, 3, 17)
    assert relative_error(oracle(tokens), oracle(tokens, _definition(oracle))) <= 1e-12


@pytest.mark.parametrize("time", [1, 2, 63, 300])
def test_parallel_equals_definition_at_odd_lengths(time):
    oracle = random_model(capacity=300, heads=2, blocks=1).oracle()
    tokens = random_tokens(oracle.config, 2, time)
    assert relative_error(oracle(tokens), oracle(tokens, naive.readout)) <= 1e-12


@pytest.mark.parametrize("options", FAMILY + EPS[2::3] + BASELINES, ids=lambda o: "-".join(map(str, o.values())))
def test_gradients_equal_those_of_definition(options):
    heads = 2 if options.get("readout") == "exact" and "norm_eps" not in options else 1
    model = random_model(**{"heads": heads, **options}).double()
    tokens = random_tokens(model.config, 2, 9)
    gradients = []
    for mixer in (None, _definition(model)):
        model.zero_grad()
        model(tokens, mixer).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert relative_error(gradients[0], gradients[1]) <= 1e-11


@pytest.mark.parametrize("options", EPS, ids=lambda o: "-".join(map(str, o.values())))
def test_float32_with_an_eps_is_close_and_the_eps_counts(options):
    model = random_model(**options)
    tokens = random_tokens(model.config, 3, 30)
    expected = model.oracle()(tokens)
    with torch.no_grad():
        assert relative_error(model(tokens), expected) <= TOLERANCES["float32", "parallel"].relative
    without = random_model(**{**options, "norm_eps": 0.0})
    assert relative_error(without.oracle()(tokens), expected) >= options["norm_eps"] / 10


@pytest.mark.parametrize("options", [{"heads": 16}, {"heads": 16, "activation": "relu"}, {"embedding": 2}], ids=str)
def test_layer_norm_over_two_channels_is_right_in_float32(options):
    for seed in range(10):
        model = random_model(seed, **options)
        tokens = random_tokens(model.config, 4, 40, seed)
        with torch.no_grad():
            error = relative_error(model(tokens), model.oracle()(tokens))
        assert error <= TOLERANCES["float32", "parallel"].relative


def test_future_tokens_change_nothing_before_them():
    model = random_model()
    tokens = random_tokens(model.config, 1, 20)
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 29
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:12], after[:12])
    assert not torch.equal(before[12], after[12])


HISTORY = [{"readout": "exact"}, {"readout": "linear"}, {"readout": "plain"}, *BASELINES]


@pytest.mark.parametrize("options", HISTORY, ids=lambda o: "-".join(map(str, o.values())))
def test_history_matters_in_test_models(options):
    """Models that tests are built on must fail loudly when their past is lost."""
    oracle = random_model(**options).oracle()
    tokens = random_tokens(oracle.config, 1, 20)
    alone = torch.cat([oracle(tokens[:, :1])] * 20, 1)
    assert relative_error(alone, oracle(tokens)) > 1e-2


def test_overflowing_mean_square_gives_nan_not_zeros():
    model = random_model()
    with torch.no_grad():
        model.wte.weight[5] = torch.linspace(-1e25, 1e25, 32)
        logits = model(torch.full((1, 3), 5))
    assert np.isnan(logits.numpy()).all()
