"""What makes a block delicate is found, and where."""

import pytest
import torch

from causalrn.bundle.json_values import to_json
from causalrn.model.readouts import naive
from causalrn.runtimes.parity.conditioning import condition_blocks
from tests.builders import random_model, random_tokens


def _conditions(model, batch=2, time=12):
    return condition_blocks(model.oracle(), random_tokens(model.config, batch, time))


@pytest.mark.parametrize("options", [{}, {"heads": 2}, {"norm": "rms"}], ids=str)
def test_pair_condition_is_that_of_its_definition(options):
    """Against every pair written out, with a and b taken from the definition's own arguments."""
    model = random_model(capacity=70, **options)
    config, tokens = model.config, random_tokens(model.config, 2, 70)
    found = condition_blocks(model.oracle(), tokens)
    worst = []

    def watch(a, b, config):
        heads = (2, 70, config.heads, config.head_width)
        a1, b1 = (x.reshape(heads) for x in (a, b))
        if config.norm == "layer":
            a1, b1 = a1 - a1.mean(-1, keepdim=True), b1 - b1.mean(-1, keepdim=True)
        pairs = a1[:, :, None] + b1[:, None]
        parts = (a1.square().sum(-1)[:, :, None] + b1.square().sum(-1)[:, None]).sqrt()
        condition = parts / pairs.norm(dim=-1) * torch.tril(torch.ones(70, 70))[None, :, :, None]
        worst.append((float(condition.max()), condition.amax((0, 3))))
        return naive.readout(a, b, config)

    model.oracle()(tokens, watch)
    for block, (largest, by_pair) in zip(found, worst, strict=True):
        assert block.pair_condition == pytest.approx(largest, rel=1e-6)
        assert float(by_pair[block.pair]) == pytest.approx(largest, rel=1e-6)
    assert config.blocks == len(found)


def test_weight_norms_are_spectral():
    model = random_model()
    norms = _conditions(model)[1].weight_norms
    largest = float(torch.linalg.svdvals(model.blocks[1].fc_3.weight.detach())[0])
    assert norms["fc_3.weight"] == pytest.approx(largest, rel=1e-5)


def test_cancelling_pairs_have_a_large_condition():
    model = random_model(bias_1=False)
    block = model.blocks[1]
    block.fc_2.weight.data = -block.fc_1.weight.data + 1e-4 * torch.randn(32, 32)
    first, second = _conditions(model)
    assert first.pair_condition < 10
    assert second.pair_condition > 1e3
    i, j = second.pair
    assert j <= i
    assert to_json(second)["pair"] == [i, j]


def test_exactly_cancelling_pairs_have_no_finite_condition():
    model = random_model(bias_1=False)
    model.blocks[0].fc_2.weight.data = -model.blocks[0].fc_1.weight.data
    assert to_json(_conditions(model)[0])["pair_condition"] is None


def test_nearly_constant_streams_have_little_spread():
    model = random_model()
    model.wte.weight.data = 1 + 1e-3 * model.wte.weight.data
    model.wpe.weight.data *= 1e-3
    assert _conditions(model)[0].spread < 1e-2
    assert _conditions(random_model())[0].spread > 0.1


@pytest.mark.parametrize("options", [{"readout": "linear"}, {"readout": "plain"}, {"attention": "softmax"}], ids=str)
def test_models_without_normalized_pairs_have_no_pair_condition(options):
    for block in _conditions(random_model(**options)):
        assert block.pair_condition is None
        assert 0 < block.spread <= 1
