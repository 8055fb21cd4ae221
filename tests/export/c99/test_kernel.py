"""The C kernel against the float64 oracle: every readout, activation, norm and width, by steps, prefill and batches."""

import numpy as np
import pytest
import torch

from causalrn.bundle.tolerances import BUDGETS, TOLERANCES
from causalrn.runtimes.native.library import ISAS
from causalrn.runtimes.native.native_session import NativeSession
from tests.builders import golden_case, random_model, relative_error
from tests.c_tools import c_bundle, needs_c_compiler

pytestmark = needs_c_compiler
STEPS, LIMIT = 40, TOLERANCES["float32", "native"].relative

CASES = {
    "exact": {},
    "exact, heads of 10 of 16 lanes": {"hidden": 30, "heads": 3, "embedding": 20},
    "exact, rms": {"norm": "rms"},
    "exact, no post-norm": {"post_norm": False},
    "exact, no head scale": {"heads": 2, "head_scale": "none"},
    "exact, relu": {"activation": "relu"},
    "exact, gelu": {"activation": "gelu", "post_norm": False},
    "exact, elu": {"activation": "elu", "heads": 2},
    "exact, unbounded": {"positions": "none", "capacity": None},
    "exact, vocabulary 300": {"vocabulary": 300, "hidden": 100},
    "linear": {"readout": "linear", "hidden": 44},
    "linear, rms, no post-norm": {"readout": "linear", "norm": "rms", "post_norm": False},
    "linear, unbounded": {"readout": "linear", "positions": "none", "capacity": None},
    "linear, gelu": {"readout": "linear", "activation": "gelu"},
    "plain": {"readout": "plain", "bias_head": True},
    "plain, no post-norm": {"readout": "plain", "post_norm": False, "embedding": 17},
    "plain, elu": {"readout": "plain", "activation": "elu"},
    "exact, eps": {"hidden": 30, "heads": 3, "norm_eps": 1e-2},
    "exact, eps, rms, no post-norm": {"norm": "rms", "post_norm": False, "norm_eps": 1e-5},
    "exact, eps, relu": {"activation": "relu", "norm_eps": 1e-2},
    "linear, eps": {"readout": "linear", "norm_eps": 1e-5},
    "linear, eps, squares may overflow": {
        "readout": "linear",
        "head_scale": "none",
        "hidden": 512,
        "norm_eps": 1e-2,
    },
    "plain, eps": {"readout": "plain", "norm_eps": 1e-2},
}
EPS_IN_C = ("eps_exact", "eps_linear", "eps_ablation_approx", "eps_ablation_no")


def tokens_of(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 29, (batch, STEPS))


def stepped(session: NativeSession, tokens: np.ndarray) -> np.ndarray:
    session.reset(len(tokens))
    return np.stack([session.step(tokens[:, t]) for t in range(tokens.shape[1])], axis=1)


def prefilled(session: NativeSession, tokens: np.ndarray, *cuts: int) -> np.ndarray:
    session.reset(len(tokens))
    return np.concatenate([session.prefill(part) for part in np.split(tokens, cuts, axis=1)], axis=1)


def test_header_names_an_eps_only_where_there_is_one(tmp_path):
    """Without one, header and weights file are byte for byte what they were before there was one."""
    for eps, line in ((0.0, ""), (1e-2, "#define CAUSALRN_NORM_EPS 1.0e-02f")):
        (tmp_path / str(eps)).mkdir()
        header = (c_bundle(random_model(norm_eps=eps), tmp_path / str(eps)).path / "causalrn.h").read_text()
        assert ("NORM_EPS" in header) == bool(eps)
        assert line in header


@pytest.mark.cases(3)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_kernel_is_the_model(tmp_path, options):
    model, tokens = random_model(**options), tokens_of(2)
    expected = model.oracle()(torch.from_numpy(tokens)).numpy()
    bundle = c_bundle(model, tmp_path)
    with NativeSession(bundle) as best:
        logits = stepped(best, tokens)
        assert relative_error(logits, expected) <= LIMIT
        assert np.array_equal(prefilled(best, tokens), logits), "prefill differs from steps"
        assert np.array_equal(prefilled(best, tokens, 1, 20), logits), "another split differs"
        assert np.array_equal(stepped(best, tokens[:1]), logits[:1]), "alone, a sequence differs"
    for isa in ISAS[1:]:
        with NativeSession(bundle, isa=isa) as session:
            if session.isa == isa:
                assert np.array_equal(stepped(session, tokens), logits)
    with NativeSession(bundle, isa="portable") as portable:
        assert relative_error(stepped(portable, tokens), expected) <= LIMIT


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["exact", "exact_heads2", "exact_rms", "exact_wide_hidden", "linear", *EPS_IN_C])
def test_kernel_gives_the_authors_numbers(tmp_path, name):
    model, tokens, expected = golden_case(name)
    with NativeSession(c_bundle(model, tmp_path)) as session:
        assert relative_error(stepped(session, tokens.numpy()), expected) <= LIMIT


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "w8"},
        {"scheme": "w8a8-dynamic"},
        {"pool_dtype": "int8"},
        {"pool_dtype": "float16"},
        {"scheme": "w8a8-dynamic", "pool_dtype": "int8"},
    ],
    ids=str,
)
@pytest.mark.parametrize("heads", [1, 2])
def test_quantized_kernel_is_close_and_the_same_everywhere(tmp_path, options, heads):
    model, tokens = random_model(heads=heads, hidden=44), tokens_of(2)
    expected = model.oracle()(torch.from_numpy(tokens)).numpy()
    bundle = c_bundle(model, tmp_path, **options)
    spoken = {}
    for isa in ISAS:
        with NativeSession(bundle, isa=isa) as session:
            if session.isa == isa:
                spoken[isa] = stepped(session, tokens)
                assert np.array_equal(prefilled(session, tokens, 3), spoken[isa])
    assert relative_error(spoken["portable"], expected) <= BUDGETS["w8"].repeat
    assert relative_error(spoken["portable"], expected) > LIMIT, "nothing was quantized"
    vectors = [logits for isa, logits in spoken.items() if isa != "portable"]
    assert all(np.array_equal(logits, vectors[0]) for logits in vectors)


@pytest.mark.cases(0)
def test_spikes_overflow_nothing(tmp_path):
    """One channel dominates: squares inside the norm after the readout would overflow at this width."""
    for readout, hidden in (("linear", 768), ("exact", 3072)):
        model = random_model(readout=readout, hidden=hidden, embedding=8, blocks=1)
        with torch.no_grad():
            model.blocks[0].fc_1.bias[5] = 1e4
            model.blocks[0].fc_2.weight[5] *= 1e4
        tokens = tokens_of(1)
        expected = model.oracle()(torch.from_numpy(tokens)).numpy()
        with NativeSession(c_bundle(model, tmp_path / readout)) as session:
            assert relative_error(stepped(session, tokens), expected) <= LIMIT


@pytest.mark.cases(0)
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_threads_change_no_bit_of_long_pools(tmp_path, dtype):
    model = random_model(capacity=1300, blocks=1)
    tokens = np.random.default_rng(1).integers(0, 29, (2, 1300))
    bundle = c_bundle(model, tmp_path, pool_dtype=dtype)
    spoken = []
    for threads in (1, 3):
        with NativeSession(bundle, threads=threads) as session:
            assert session.threads == threads
            session.reset(2)
            parts = [session.prefill(tokens[:, :1200])]
            parts += [session.step(tokens[:, t])[:, None] for t in range(1200, 1300)]
            spoken.append(np.concatenate(parts, axis=1))
    assert np.array_equal(*spoken)
