"""The recurrent cell against the oracle: logits and every state tensor, from any state, over every split."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import CheckpointError, ConfigError
from causalrn.model.causalrn_block import CausalRNBlock
from causalrn.model.cell import RecurrentCell
from causalrn.model.folding import fold
from causalrn.model.readouts import naive
from causalrn.model.readouts.recurrent import read_compensated_sum
from causalrn.model.sequence_model import SequenceModel
from tests.builders import EPS_CASES, GOLDEN_CASES, golden_case, random_model, random_tokens, relative_error, run_cell

POOLS = ("growing", "fixed", "concat")
EXACT64 = TOLERANCES["float64", "recurrent"]
FLOAT32 = TOLERANCES["float32", "recurrent"]
FAMILY = [
    {"readout": "exact"},
    {"readout": "exact", "heads": 4, "hidden": 48},
    {"readout": "exact", "norm": "rms", "post_norm": False},
    {"readout": "exact", "activation": "gelu", "bias_2": True, "bias_head": True},
    {"readout": "linear"},
    {"readout": "linear", "post_norm": False},
    {"readout": "linear", "positions": "none", "capacity": None},
    {"readout": "linear", "activation": "elu"},
    {"readout": "plain"},
    {"readout": "plain", "post_norm": False, "norm": "rms"},
    {"readout": "plain", "activation": "relu"},
    {"attention": "softmax"},
    {"attention": "softmax", "heads": 4, "norm": "rms", "hidden": 48},
    {"attention": "softmax", "heads": 2, "positions": "none", "capacity": None},
    {"attention": "linear"},
    {"attention": "linear", "heads": 4, "norm": "rms"},
    {"attention": "linear", "heads": 2, "positions": "none", "capacity": None},
]
EPS = [
    {"readout": "exact", "norm_eps": 1e-5},
    {"readout": "exact", "heads": 4, "hidden": 48, "head_scale": "none", "norm_eps": 1e-2},
    {"readout": "exact", "norm": "rms", "post_norm": False, "norm_eps": 1e-2},
    {"readout": "linear", "norm_eps": 1e-2},
    {"readout": "linear", "head_scale": "none", "positions": "none", "capacity": None, "norm_eps": 1e-2},
    {"readout": "linear", "head_scale": "none", "hidden": 512, "norm_eps": 1e-2},
    {"readout": "plain", "norm": "rms", "norm_eps": 1e-2},
    {"attention": "softmax", "heads": 2, "norm_eps": 1e-2},
    {"attention": "linear", "norm": "rms", "norm_eps": 1e-2},
]


def _splits(length: int) -> st.SearchStrategy[list[int]]:
    """Every way to cut a sequence into chunks, steps among them."""
    cuts = st.sets(st.integers(1, length - 1))
    return cuts.map(lambda s: np.diff([0, *sorted(s), length]).tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*GOLDEN_CASES, *EPS_CASES])
def test_cell_equals_official_code(name, dtype):
    model, tokens, expected = golden_case(name)
    cell = RecurrentCell.from_model(model, dtype=dtype)
    time = tokens.shape[1]
    for splits in ([1] * time, [time], [time // 2] + [1] * (time - time // 2)):
        logits, _ = run_cell(cell, tokens, splits)
        assert (logits - expected).abs().max() <= FLOAT32.logit_bound(float(expected.abs().max()))


@pytest.mark.parametrize("options", EPS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cell_with_an_eps_gives_the_oracles_logits(options, dtype):
    model = random_model(**options)
    tokens, cell = random_tokens(model.config, 2, 14), RecurrentCell.from_model(model, dtype=dtype)
    expected, limit = model.oracle()(tokens), EXACT64 if dtype == torch.float64 else FLOAT32
    for splits in ([1] * 14, [14], [3, 1, 6, 4]):
        assert relative_error(run_cell(cell, tokens, splits)[0], expected) <= limit.relative


@pytest.mark.cases(8)
@pytest.mark.parametrize("options", FAMILY, ids=str)
@settings(max_examples=15, deadline=None)
@given(splits=_splits(14), pool=st.sampled_from(POOLS), batch=st.sampled_from([1, 2]), seed=st.integers(0, 3))
def test_any_split_gives_the_oracles_logits_and_the_same_state(options, splits, pool, batch, seed):
    model = random_model(seed, **options)
    tokens = random_tokens(model.config, batch, 14, seed)
    capacity = 20 if pool == "fixed" else None  # None: the model's, and some have none
    cell = RecurrentCell.from_model(model, pool=pool, capacity=capacity, dtype=torch.float64)
    logits, state = run_cell(cell, tokens, splits)
    stepped, stepped_state = run_cell(cell, tokens, [1] * 14)
    expected = model.oracle()(tokens)
    assert relative_error(logits, expected) <= EXACT64.relative
    assert relative_error(stepped, expected) <= EXACT64.relative
    for tensor, mine, theirs in zip(cell.spec.tensors, state, stepped_state, strict=True):
        if not tensor.is_remainder:
            assert relative_error(mine, theirs) <= EXACT64.state_relative


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_state_holds_what_the_oracle_computes_per_block(readout):
    """Not only the logits: each block's state, from the oracle's own b."""
    model = random_model(readout=readout, blocks=3)
    oracle, tokens = model.oracle(), random_tokens(model.config, 2, 11)
    seen = []
    for block in oracle.blocks:
        block.fc_2.register_forward_hook(lambda module, args, b: seen.append(b))
    oracle(tokens)
    cell = RecurrentCell.from_model(model, dtype=torch.float64)
    _, state = run_cell(cell, tokens, [4, 1, 1, 5])
    for index, b in enumerate(seen):
        b = b.transpose(0, 1)  # [T, B, H]
        if readout == "exact":
            assert relative_error(state[index], b - b.mean(-1, keepdim=True)) <= 1e-11
        elif readout == "linear":
            assert relative_error(state[index], naive.ln0(b, "layer").exp().sum(0)) <= 1e-11
        else:
            maximum, total = state[2 * index : 2 * index + 2]
            assert torch.allclose(maximum + total.log(), b.logsumexp(0), rtol=1e-11)


@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_state_of_a_transformer_holds_the_oracles_keys_and_values(attention):
    model = random_model(attention=attention, heads=2, blocks=3)
    oracle, tokens = model.oracle(), random_tokens(model.config, 2, 11)
    seen = []
    for block in oracle.blocks:
        block.attn.fc_1.register_forward_hook(lambda module, args, qkv: seen.append(qkv))
    oracle(tokens)
    _, state = run_cell(RecurrentCell.from_model(model, dtype=torch.float64), tokens, [4, 1, 1, 5])
    for index, qkv in enumerate(seen):
        if attention == "softmax":
            assert relative_error(state[index], qkv[..., 32:].transpose(0, 1)) <= 1e-11
        else:
            k, v = (part.reshape(2, 11, 2, 16) for part in qkv[..., 32:].chunk(2, dim=-1))
            k = torch.nn.functional.elu(k) + 1
            assert relative_error(state[index][..., :-1], torch.einsum("btgd,btge->bgde", k, v)) <= 1e-11
            assert relative_error(state[index][..., -1], k.sum(1)) <= 1e-11


@pytest.mark.parametrize("readout", ["linear", "plain"])
def test_linear_prefill_adds_in_the_order_of_steps(readout):
    model = random_model(readout=readout)
    tokens = random_tokens(model.config, 2, 20)
    cell = RecurrentCell.from_model(model)
    (_, once), (_, steps) = (run_cell(cell, tokens, splits) for splits in ([20], [1] * 20))
    for mine, theirs in zip(once, steps, strict=True):
        assert relative_error(mine, theirs) <= 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"readout": "exact"},
        {"readout": "linear"},
        {"readout": "plain"},
        {"attention": "softmax"},
        {"attention": "linear"},
    ],
    ids=str,
)
def test_a_lost_history_is_noticed(options):
    """The checks above can fail: a state reset between two chunks is far out of tolerance."""
    model = random_model(**options)
    tokens = random_tokens(model.config, 1, 12)
    cell = RecurrentCell.from_model(model, dtype=torch.float64)
    whole, state = run_cell(cell, tokens, [12])
    fresh = [torch.zeros_like(tensor) for tensor in state]
    with torch.no_grad():
        lost, *_ = cell(tokens[:, 6:], torch.tensor(6), *[t[:6] if cell.spec.has_pool else t for t in fresh])
    assert relative_error(lost, whole[:, 6:]) > 1e-3


def _spiked(readout: str, hidden: int, a_channels: list[int], **options) -> SequenceModel:
    model = random_model(readout=readout, hidden=hidden, embedding=16, blocks=1, capacity=12, **options)
    block = model.blocks[0]
    assert isinstance(block, CausalRNBlock)
    with torch.no_grad():
        for layer, channels in ((block.fc_1, a_channels), (block.fc_2, [3])):
            layer.weight[channels] *= 50 if readout == "plain" else 1e4
    return model


def _worst_error_of_spiked(model: SequenceModel) -> float:
    """Relative error of parallel and recurrent float32, against the definition in float64."""
    tokens = random_tokens(model.config, 2, 12)
    expected = model.oracle()(tokens, naive.readout)
    with torch.no_grad():
        forms = [model(tokens)]
    cell = RecurrentCell.from_model(model)
    forms += [run_cell(cell, tokens, splits)[0] for splits in ([1] * 12, [12], [5, 1, 1, 5])]
    errors = [relative_error(form, expected) for form in forms]
    assert np.isfinite(errors).all()
    return max(errors)


@pytest.mark.parametrize("a_channels", [[3], [3, 7]], ids=["one", "competing"])
@pytest.mark.parametrize("hidden", [768, 3072])
@pytest.mark.parametrize(
    ("readout", "eps"),
    [
        ("exact", {}),
        ("linear", {}),
        ("plain", {}),
        ("exact", {"norm_eps": 1e-2}),
        ("exact", {"norm_eps": 1e-2, "head_scale": "none"}),
        ("linear", {"norm_eps": 1e-2}),
    ],
)
def test_spikes_stay_finite_and_within_the_conditioning_of_exp_and_norm(readout, hidden, a_channels, eps):
    """A spike drives |LN0| to sqrt(H - 1): exp reaches e^55, and its square overflows float32 without care.

    The same factor is the conditioning: exp turns the rounding of a value of that size into a relative error of
    sqrt(H - 1) 2^-24, and LN0(o) enlarges the rounding of channels that one outlier towers over as much.
    """
    bound = 4 * 2 * np.sqrt(hidden - 1) * 2.0**-24  # both causes, a few roundings each: 1.3e-5 and 2.6e-5
    assert _worst_error_of_spiked(_spiked(readout, hidden, a_channels, **eps)) <= bound


@pytest.mark.parametrize(("readout", "hidden"), [("linear", 3072), ("plain", 768)])
def test_sums_beyond_float32_are_nan_with_an_eps_and_no_head_scale(readout, hidden):
    """Their scale counts then, so it cannot be taken away; the official ablation blocks overflow as well."""
    model = _spiked(readout, hidden, [3], norm_eps=1e-2, head_scale="none")
    tokens = random_tokens(model.config, 2, 12)
    assert model.oracle()(tokens, naive.readout).isfinite().all()
    with torch.no_grad():
        assert model(tokens).isnan().any()
    assert run_cell(RecurrentCell.from_model(model), tokens, [1] * 12)[0].isnan().any()


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_constant_embedding_row_gives_the_oracles_logits(readout, value):
    """The official code gives NaN (or noise) where an embedding has no spread: here LN0 of it is zero."""
    model = random_model(readout=readout, embedding=24, hidden=24)
    with torch.no_grad():
        model.wte.weight[4] = value
        model.wpe.weight[:3] = 0.7
        for block in model.blocks:
            block.fc_1.bias.zero_()
    tokens = random_tokens(model.config, 1, 10)
    tokens[0, :3] = 4
    expected = model.oracle()(tokens, naive.readout)
    assert expected.isfinite().all()
    for splits in ([1] * 10, [10]):
        logits, _ = run_cell(RecurrentCell.from_model(model), tokens, splits)
        assert (logits - expected).abs().max() <= FLOAT32.logit_bound(float(expected.abs().max()))


@pytest.mark.cases(0)
@pytest.mark.slow
@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_papers_size_over_256_tokens(readout):
    model = random_model(readout=readout, embedding=192, hidden=192, blocks=12, capacity=256)
    tokens = random_tokens(model.config, 1, 256)
    expected = model.oracle()(tokens)
    cell = RecurrentCell.from_model(model)
    for splits in ([1] * 256, [100, 1, 1, 54, 100]):
        logits, _ = run_cell(cell, tokens, splits)
        assert relative_error(logits, expected) <= FLOAT32.relative


def test_folding_leaves_the_model_as_it_was():
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_overflow_float32_are_refused():
    model = random_model()
    with torch.no_grad():
        model.blocks[1].fc_1.weight *= 1e19
    with pytest.raises(CheckpointError, match=r"block 1.*overflow float32"):
        fold(model)


def test_weights_with_nan_are_refused():
    model = random_model()
    with torch.no_grad():
        model.blocks[0].fc_3.weight[2, 2] = torch.nan
    with pytest.raises(CheckpointError, match=r"blocks\.0\.fc_3\.weight"):
        fold(model)


def test_capacity_beyond_learned_positions_is_refused():
    with pytest.raises(ConfigError, match="41 is beyond the model's 40"):
        RecurrentCell.from_model(random_model(), capacity=41)


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_without_positions_a_cell_has_no_end(readout):
    model = random_model(readout=readout, positions="none", capacity=None)
    tokens = random_tokens(model.config, 2, 30)
    cell = RecurrentCell.from_model(model, dtype=torch.float64)
    assert cell.capacity is None
    logits, _ = run_cell(cell, tokens, [10, 1, 1, 18])
    assert relative_error(logits, model.oracle()(tokens)) <= EXACT64.relative


def test_sum_of_a_long_stream_keeps_its_precision():
    """Adding 0.1 a hundred thousand times: plainly in float32 off by 1e-3, compensated by one rounding."""
    total, carry, plain = torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)
    step = torch.full((1, 1, 2), 0.1)
    for _ in range(100_000):
        sums, carry = read_compensated_sum(step, total, carry)
        total, plain = sums[-1], plain + step[0]
    expected = 1e5 * float(step[0, 0, 0])
    assert abs(total[0, 0].item() - expected) <= 1e-7 * expected
    assert abs(plain[0, 0].item() - expected) > 1e-4 * expected
