"""The sum over pairs with every kernel: values, gradients, odd sizes, and nothing read that was not written."""

import itertools

import pytest
import torch

from causalrn.compiling.c_compiler import find_compiler
from causalrn.errors import FallbackWarning, RuntimeUnavailableError
from causalrn.model.normalization import centre
from causalrn.model.operators import c_kernels, c_library, kernels, tiles
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import KERNELS, using_kernel
from causalrn.model.operators.pair_sum import pair_sum
from causalrn.model.readouts import naive
from tests.c_tools import HAS_C_COMPILER, needs_c_compiler

EVERY_KERNEL = [pytest.param("c", marks=needs_c_compiler), "tiles"]
NORMS = [("layer", 0.0), ("rms", 0.0), (None, 0.0), ("layer", 0.3), ("rms", 1e-3)]


def _inputs(time, heads=2, width=5, dtype=torch.float64, keys=None):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, time, heads, width), (2, keys or time, heads, width))
    return (torch.randn(*shape, dtype=dtype, generator=generator, requires_grad=True) for shape in shapes)


def _definition(q, k, activation, norm, eps=0.0):
    pairs = q[:, :, None] + k[:, None]
    pairs = naive.ln0(pairs, norm, eps) if norm else pairs
    time, keys = q.shape[1], k.shape[1]
    past = torch.ones(time, keys, dtype=torch.bool).tril(keys - time)[None, :, :, None, None]
    return torch.where(past, naive.activate(pairs, activation), 0.0).sum(2)


def _largest_error(value, expected):
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.cases(20)
@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("activation", ["exp", "elu", "relu", "gelu"])
def test_gradient_is_right(activation, norm, eps, kernel):
    def summed(a, b):
        return pair_sum(a, b, activation=activation, norm=norm, eps=eps)

    with using_kernel(kernel):
        assert torch.autograd.gradcheck(summed, tuple(_inputs(4)))
        assert torch.autograd.gradcheck(summed, tuple(_inputs(3, keys=7)))


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("activation", ["exp", "elu", "relu", "gelu"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 2e-14), (torch.float32, 3e-6)])
def test_values_and_gradients_are_those_of_the_definition(dtype, within, activation, norm, eps, kernel):
    """At odd sizes: no width, time or number of keys is a multiple of what is computed together."""
    for time, keys, heads, width in ((1, 1, 1, 3), (23, 23, 2, 17), (5, 63, 1, 40), (67, 70, 3, 7)):
        q, k = _inputs(time, heads, width, keys=keys)
        expected = _definition(q, k, activation, norm, eps)
        gradient = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        theirs = (expected, *torch.autograd.grad(expected, (q, k), gradient))
        a, b = (x.detach().to(dtype).requires_grad_() for x in (q, k))
        with using_kernel(kernel):
            value = pair_sum(a, b, activation=activation, norm=norm, eps=eps)
        mine = (value, *torch.autograd.grad(value, (a, b), gradient.to(dtype)))
        for one, other in zip(mine, theirs, strict=True):
            assert _largest_error(one, other) < within


@pytest.mark.parametrize("tile_bytes", [1, 2000, 9000, 1 << 20])
@pytest.mark.parametrize(("time", "keys"), [(1, 1), (7, 7), (23, 23), (1, 9), (4, 23)])
def test_tiles_of_every_size_give_the_same(monkeypatch, tile_bytes, time, keys):
    monkeypatch.setattr(tiles, "_CPU_TILE_BYTES", tile_bytes)
    q, k = _inputs(time, keys=keys)
    with using_kernel("tiles"):
        value = pair_sum(q, k, activation="exp", norm="layer")
    expected = _definition(q, k, "exp", "layer")
    assert torch.allclose(value, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), (q, k)) for out in (value, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@needs_c_compiler
@pytest.mark.parametrize("width", [5, 8, 64, 3100, 9000])
def test_kernels_agree_when_rows_are_narrow_wide_and_read_where_they_are(width):
    """Rows wider than a block of keys, exps whose exponent may overflow, keys that lie between other data."""
    q, k = _inputs(9, heads=1, width=width, dtype=torch.float32, keys=14)
    stored = torch.full((14, 2, 3, width), torch.nan)  # a pool: time-major
    stored[:, :, 1] = k[:, :, 0].transpose(0, 1)
    values = []
    for kernel, keys in (("c", stored[:, :, 1:2].transpose(0, 1)), ("c", k), ("tiles", k)):
        with using_kernel(kernel):
            values.append(pair_sum(q, keys, activation="exp", norm="rms"))
    assert torch.equal(values[0], values[1])
    assert _largest_error(values[1], values[2]) < 1e-5


def test_poisoned_scratch_is_never_read(monkeypatch):
    """Buffers come unwritten: with NaN in them the result must be the same."""
    with using_kernel("tiles"):
        clean = pair_sum(*_inputs(23), activation="exp", norm="layer")
        make = torch.Tensor.new_empty
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: make(self, *shape).fill_(torch.nan))
        monkeypatch.setattr(tiles, "_CPU_TILE_BYTES", 5000)
        assert torch.allclose(pair_sum(*_inputs(23), activation="exp", norm="layer"), clean, rtol=1e-12)


@needs_c_compiler
def test_memory_that_c_gets_is_never_read_before_it_is_written(monkeypatch):
    """What malloc gives back holds NaN; so do the results that are to be written."""
    make = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x: make(x).fill_(torch.nan))
    for width, time, norm in itertools.product((5, 16, 48), (1, 2, 19), ("layer", "rms")):
        q, k = (x.detach() for x in _inputs(time, width=width))
        function = PairFunction("exp", norm)
        poison = [torch.full((2 * time + 9, 64), torch.nan) for _ in range(8)]
        del poison
        value, gradients = c_kernels.sum_pairs(q, k, function), c_kernels.differentiate_pairs(q, k, q, function)
        expected, wanted = tiles.sum_pairs(q, k, function), tiles.differentiate_pairs(q, k, q, function)
        for mine, theirs in zip((value, *gradients), (expected, *wanted), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_pairs_that_nearly_cancel_keep_their_precision(kernel):
    """b_j near -a: the expansion |a|^2 + |b|^2 + 2ab has an error of 1e-2 here (docs/numerics.md)."""
    q, _ = _inputs(12, heads=1, width=64, dtype=torch.float32)
    q = 100 * q.detach()
    noise = torch.randn(q.shape, generator=torch.Generator().manual_seed(3))
    k = -q + noise * 2.0**-6
    with using_kernel(kernel):
        exact = pair_sum(q.double(), k.double(), activation="exp", norm="rms")
        assert torch.allclose(pair_sum(q, k, activation="exp", norm="rms").double(), exact, rtol=1e-5)


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_vector_of_zeros_is_read_as_zeros(kernel):
    q, k = (torch.zeros(1, 3, 1, 8, requires_grad=True) for _ in range(2))
    with using_kernel(kernel):
        out = pair_sum(q, k, activation="exp", norm="rms")
    assert torch.equal(out, torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand_as(out))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(out.sum(), (q, k)))


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize("activation", ["exp", "elu", "relu", "gelu"])
@pytest.mark.parametrize("norm", ["rms", None])
@pytest.mark.parametrize("value", [torch.nan, 3e38])
def test_what_is_not_finite_shows_where_it_is_read_and_nowhere_else(activation, norm, value, kernel):
    """A position in the future does not reach the past, a mean square that overflows is no zero."""
    q, k = (x.detach().float() for x in _inputs(11, heads=1, width=20))
    with using_kernel(kernel):
        before = pair_sum(q, k, activation=activation, norm=norm)
        k[1, 6, 0, 3] = value
        after = pair_sum(q, k, activation=activation, norm=norm)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1, :5], before[1, :5])
    if norm or value != value:
        reached = after[1, 6:] if norm else after[1, 6:, :, 3]
        assert torch.isnan(reached).all()


@needs_c_compiler
@pytest.mark.parametrize("x", [-1e30, -200.0, -90.0, -1e-7, 0.0, 1e-7, 80.0, 200.0, 1e30])
@pytest.mark.parametrize("activation", ["exp", "elu", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_hold_far_out(activation, x, dtype):
    q = torch.full((1, 1, 1, 5), x, dtype=dtype)
    value, expected = (pair_sum_of(kernel, q, activation) for kernel in ("c", "tiles"))
    assert torch.allclose(value, expected, rtol=2e-6 if dtype == torch.float32 else 1e-13, atol=2e-38)


def pair_sum_of(kernel, q, activation):
    with using_kernel(kernel):
        return pair_sum(q, torch.zeros_like(q), activation=activation, norm=None)


@needs_c_compiler
def test_results_do_not_depend_on_the_number_of_threads():
    q, k = (x.detach() for x in _inputs(120, heads=3, width=9, keys=131))  # enough for threads to be started
    function, threads = PairFunction("exp", "layer"), torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append((c_kernels.sum_pairs(q, k, function), *c_kernels.differentiate_pairs(q, k, q, function)))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(results[0], other, strict=True))


@needs_c_compiler
@pytest.mark.parametrize(
    "k",
    [
        torch.zeros(2, 3, 2, 5),  # fewer keys than queries
        torch.zeros(1, 4, 2, 5),
        torch.zeros(2, 4, 1, 5),
        torch.zeros(2, 4, 2, 6),
        torch.zeros(4, 2, 5),
        torch.zeros(2, 4, 2, 5, dtype=torch.float64),
    ],
    ids=lambda k: f"{list(k.shape)} {k.dtype}",
)
def test_tensors_that_do_not_belong_together_are_refused(k):
    q = torch.zeros(2, 4, 2, 5)
    with using_kernel("c"), pytest.raises(ValueError, match=r"expected \[B, T, G, D\] and \[B, S, G, D\]"):
        pair_sum(q, k, activation="exp", norm="rms")


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0)])
def test_nothing_sums_to_nothing(batch, time, kernel):
    q, k = (torch.zeros(batch, steps, 2, 5, requires_grad=True) for steps in (time, 3))
    with using_kernel(kernel):
        out = pair_sum(q, k, activation="exp", norm="rms")
    assert out.shape == q.shape
    assert all(not gradient.any() for gradient in torch.autograd.grad(out.sum(), (q, k)))


@needs_c_compiler
def test_operator_is_registered_as_pytorch_wants_it():
    q, k = _inputs(6)
    torch.library.opcheck(torch.ops.causalrn.pair_sum.default, (q, k, "exp", "layer", 0.0, "c"))
    once = tuple(x.detach() for x in (q, k, q))  # second derivatives are not offered
    torch.library.opcheck(torch.ops.causalrn.pair_sum_gradients.default, (*once, "exp", "layer", 0.0, "c"))


@needs_c_compiler
def test_auto_takes_c():
    assert kernels.choose_kernel("cpu", torch.float32) == kernels.choose_kernel("cpu", torch.float64) == "c"
    assert kernels.choose_kernel("cpu", torch.float16) == "tiles"
    assert "causalrn_pair_sum" in pair_sum(*_inputs(3), activation="exp", norm="layer").grad_fn.name()


@pytest.fixture
def anew(monkeypatch):
    """Nothing has been compiled, nor said."""
    monkeypatch.setattr(kernels, "_noted", set())
    monkeypatch.setattr(c_library, "_loaded", c_library._loaded.__wrapped__)


def test_without_a_compiler_tiles_are_used_and_one_note_says_so(anew, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(FallbackWarning, match=r"in PyTorch.*no-such-compiler is not there.*install gcc or clang"):
        assert kernels.choose_kernel("cpu", torch.float32) == "tiles"
    assert kernels.choose_kernel("cpu", torch.float32) == "tiles", "said once"
    with using_kernel("c"), pytest.raises(RuntimeUnavailableError, match="kernel c: CC=no-such-compiler"):
        kernels.choose_kernel("cpu", torch.float32)
    monkeypatch.delenv("CC")
    assert kernels.choose_kernel("cpu", torch.float32) == ("c" if HAS_C_COMPILER else "tiles")


@needs_c_compiler
def test_another_compiler_makes_another_library(monkeypatch):
    """What it compiles may round otherwise: the weights of a run depend on it."""
    before = c_library.load_library("normalize.c", torch.float32)
    with monkeypatch.context() as patch:
        patch.setenv("CC", f"{find_compiler()[0]} -O1")
        other = c_library.load_library("normalize.c", torch.float32)
    assert other is not before
    assert c_library.load_library("normalize.c", torch.float32) is before


def test_compiler_that_does_not_work_is_none(anew, monkeypatch, tmp_path):
    """One that knows no vectors, say."""
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit\necho 'x.c:1: error: unknown attribute' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.warns(
        FallbackWarning, match=r"in PyTorch.*cannot compile normalize.c: x.c:1: error: unknown attribute"
    ):
        assert kernels.choose_kernel("cpu", torch.float64) == "tiles"


def test_centred_terms_make_a_centred_pair():
    q, k = _inputs(5)
    for kernel in KERNELS:
        if KERNELS[kernel].why_not("cpu", q.dtype):
            continue
        with using_kernel(kernel):
            layer = pair_sum(q, k, activation="exp", norm="layer")
            assert torch.allclose(layer, pair_sum(centre(q), centre(k), activation="exp", norm="rms"), rtol=1e-12)
