"""What a token costs at the least, by hand."""

import pytest
from torch import nn

from causalrn.model.config import CausalRNConfig, TransformerConfig
from causalrn.model.sequence_model import SequenceModel
from causalrn.model.state import derive_state
from causalrn.runtimes.bench.cost import FLOAT, INTEGER, WIDENED, Call, StepCost, macs_per_token

PAPER = {"vocabulary": 29, "embedding": 192, "hidden": 192, "blocks": 12, "capacity": 4224}
CONFIG = CausalRNConfig(**PAPER)


def cost(kind=CausalRNConfig, scheme="float32", pool_dtype="float32", **options):
    config = kind(**{**PAPER, **options})
    return StepCost.of(config, derive_state(config, pool_dtype=pool_dtype), scheme)


def test_paper_size_exact_and_linear():
    exact, linear = cost(readout="exact"), cost(readout="linear")
    assert exact == StepCost(4 * 1332672, 1332672, FLOAT, 0, 12 * 192 * 4, 12 * 192, 0)
    assert linear == StepCost(4 * 1332672, 1332672, FLOAT, 2 * 12 * 192, 0, 0, 0)


def test_quantization_shrinks_weights_and_rows():
    assert cost(scheme="w8").weight_bytes == 1332672
    assert cost(scheme="w8").multiplies == WIDENED
    assert StepCost.of(CONFIG, derive_state(CONFIG), "w8", "nbits").multiplies == INTEGER
    assert cost(scheme="w4").weight_bytes == 1332672 // 2
    assert cost(scheme="w8a8-dynamic").multiplies == INTEGER
    assert cost(scheme="fp16").multiplies == FLOAT
    assert cost(pool_dtype="int8").row_bytes == 12 * (192 + 4)


def test_pools_without_exp_take_no_exps():
    relu = cost(readout="linear", activation="relu")
    assert (relu.row_exps, relu.row_bytes) == (0, 12 * 192 * 4)
    assert cost(readout="plain").exps == 2 * 12 * 192


def test_attention_multiplies_with_every_row():
    transformer = cost(TransformerConfig, heads=6)
    assert transformer.row_products == 2 * 192 * 12
    assert transformer.row_exps == 6 * 12
    assert cost(TransformerConfig, attention="linear", heads=6).row_bytes == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CausalRNConfig, {"readout": "exact"}),
        (CausalRNConfig, {"readout": "linear", "hidden": 64}),
        (TransformerConfig, {"heads": 6, "hidden": 768}),
    ],
)
def test_products_are_the_models_matrices(kind, options):
    config = kind(**{**PAPER, "capacity": 8, **options})
    model = SequenceModel(config)
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert macs_per_token(config) == matrices


def test_prefill_of_t_tokens_is_t_steps():
    for depth, tokens in ((0, 1), (0, 5), (7, 3)):
        steps = [Call(1, depth + t) for t in range(tokens)]
        assert Call(tokens, depth).pairs == sum(step.pairs for step in steps)
        assert Call(tokens, depth).rows == steps[-1].rows


def test_working_set_is_weights_and_all_pools():
    assert cost().working_set(Call(1, 15, 4)) == 4 * 1332672 + 4 * 16 * 12 * 192 * 4
    assert cost(readout="linear").working_set(Call(1, 4000)) == 4 * 1332672
