"""The sum over pairs by Triton, against its definition in float64: what test_triton.py runs in a process of its own.

TRITON_INTERPRET decides for a whole process whether programs run in Triton's interpreter, on a CPU, or on a GPU. The
interpreter takes some 30 ms per tile of pairs, so tiles are as large as a test allows.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

from causalrn.model.operators import triton_kernels
from causalrn.model.operators.functions import PairFunction
from causalrn.model.operators.kernels import using_kernel
from causalrn.model.operators.pair_sum import pair_sum
from causalrn.model.operators.triton_kernels import Blocks
from causalrn.model.readouts import naive

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
WITHIN = 3e-6  # of the largest, as the other kernels in float32
ACTIVATIONS = ["exp", "elu", "relu", "gelu"]

# the interpreter computes in NumPy, which warns where a GPU gives infinity or NaN
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that is not written yet holds NaN."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *given, make=make, **more: make(*given, **more).fill_(torch.nan))


@pytest.fixture
def large_tiles(monkeypatch, request):
    """16 x 16 pairs, or as many as a test says."""
    of, pairs = Blocks.of, getattr(request, "param", 256)
    monkeypatch.setattr(Blocks, "of", lambda width, backward: of(width, backward)._replace(pairs=pairs))


def _inputs(time, keys, heads, width, dtype=torch.float32, batch=1):
    """Queries, keys and a gradient, as float64 leaves that `dtype` holds exactly."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, steps, heads, width) for steps in (time, keys, time)]
    return [torch.randn(*shape, generator=generator).to(dtype).double().requires_grad_() for shape in shapes]


def _definition(q, k, function):
    pairs = q[:, :, None] + k[:, None]
    pairs = naive.ln0(pairs, function.norm, function.eps) if function.norm else pairs
    time, keys = q.shape[1], k.shape[1]
    past = torch.ones(time, keys, dtype=torch.bool).tril(keys - time)[None, :, :, None, None]
    return torch.where(past, naive.activate(pairs, function.activation), 0.0).sum(2)


def _on_device(x, dtype=torch.float32):
    return x.detach().to(DEVICE, dtype)


def _by_triton(q, k, function):
    with using_kernel("triton"):
        return pair_sum(q, k, activation=function.activation, norm=function.norm, eps=function.eps)


def _largest_errors(inputs, function, dtype=torch.float32):
    """Of the sums and of both gradients, relative to the largest of each."""
    q, k, gradient = inputs
    expected = _definition(q, k, function)
    a, b = (_on_device(x, dtype).requires_grad_() for x in (q, k))
    value = _by_triton(a, b, function)
    mine = (value, *torch.autograd.grad(value, (a, b), _on_device(gradient, dtype)))
    theirs = (expected, *torch.autograd.grad(expected, (q, k), gradient))
    assert all(one.dtype == dtype for one in mine)
    pairs = [(one.detach().cpu().double(), other.detach()) for one, other in zip(mine, theirs, strict=True)]
    return [float((one - other).abs().max() / other.abs().max()) for one, other in pairs]


@pytest.mark.parametrize(
    "function",
    [
        *(PairFunction("exp", norm, eps) for norm, eps in (("layer", 0.0), ("rms", 0.3), (None, 0.0))),
        PairFunction("elu", "layer", 0.3),
        PairFunction("relu", "rms"),
        *(PairFunction("gelu", norm) for norm in ("layer", None)),
    ],
)
def test_values_and_gradients_are_those_of_the_definition(function):
    errors = _largest_errors(_inputs(3, 6, 2, 17), function)
    assert max(errors) < WITHIN, errors


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(
    ("time", "keys", "heads", "width", "function"),
    [
        (63, 63, 1, 192, PairFunction("exp", "layer")),
        (65, 65, 1, 7, PairFunction("gelu", "rms")),
        (33, 63, 1, 13, PairFunction("elu", "layer", 1e-3)),
    ],
)
def test_sequences_that_fill_no_block_are_right(time, keys, heads, width, function):
    errors = _largest_errors(_inputs(time, keys, heads, width), function)
    assert max(errors) < WITHIN, errors


@pytest.mark.parametrize("width", [2, 64, 192, 3072])
def test_rows_are_right_at_every_width(width):
    """One query and one key at least are alone in their block; 3,072 channels take four warps and three parts."""
    errors = _largest_errors(_inputs(1, 1, 1, width, batch=2), PairFunction("exp", "rms"))
    assert max(errors) < WITHIN, errors


def test_rows_wider_than_registers_are_left_to_the_tiles(monkeypatch):
    monkeypatch.setattr(triton_kernels, "_passes", None)
    errors = _largest_errors(_inputs(2, 3, 1, triton_kernels.MOST_WIDTH + 1), PairFunction("exp", "rms"))
    assert max(errors) < WITHIN, errors


@pytest.mark.usefixtures("large_tiles")
def test_step_over_a_pool_reads_it_where_it_is():
    """Time-major, between other data; several programs share the keys of the one query."""
    q, k, _ = _inputs(1, 150, 2, 9, batch=2)
    stored = torch.full((150, 2, 2, 3, 9), torch.nan, device=DEVICE)
    stored[:, :, :, 1] = _on_device(k).transpose(0, 1)
    pool = stored[:, :, :, 1].transpose(0, 1)
    assert triton_kernels._parts_of_keys(q, pool) > 1
    function = PairFunction("exp", "layer")
    value = _by_triton(_on_device(q), pool, function).cpu().double()
    assert torch.allclose(value, _definition(q, k, function), rtol=WITHIN)


@pytest.mark.usefixtures("large_tiles")
def test_strided_queries_and_gradients_are_right():
    q, k, _ = _inputs(5, 5, 2, 6)
    function = PairFunction("exp", "rms")
    a = torch.stack([_on_device(q), torch.full_like(_on_device(q), torch.nan)], -1)[..., 0]  # channels are apart
    b = _on_device(k).transpose(0, 1).contiguous().transpose(0, 1)
    for x in (a, b):
        x.requires_grad_()
    mine = torch.autograd.grad(_by_triton(a, b, function).sum(), (a, b))  # the gradient is one number, expanded
    theirs = torch.autograd.grad(_definition(q, k, function).sum(), (q, k))
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one.cpu().double(), other, atol=1e-5)


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(
    ("dtype", "rounding", "norm"),
    [(torch.bfloat16, 2**-7, "rms"), (torch.float16, 2**-11, "layer")],  # the interpreter cuts off for bfloat16
)
def test_half_precision_is_summed_in_float32_and_rounded_once(dtype, rounding, norm):
    """A sum of 70 numbers in bfloat16 itself would be off by several roundings."""
    q, k, gradient = _inputs(2, 70, 1, 16, dtype)
    function = PairFunction("exp", norm)
    value = _by_triton(_on_device(q, dtype), _on_device(k, dtype), function).cpu().double()
    assert torch.allclose(value, _definition(q, k, function), rtol=rounding, atol=0)
    errors = _largest_errors((q, k, gradient), function, dtype)
    assert max(errors) < rounding, errors


def test_pairs_that_nearly_cancel_keep_their_precision():
    q, k, _ = _inputs(4, 4, 1, 64)
    q = (100 * q.detach()).float().double()
    k = (-q + k.detach() * 2.0**-6).float().double()
    function = PairFunction("exp", "rms")
    value = _by_triton(_on_device(q), _on_device(k), function)
    assert torch.allclose(value.cpu().double(), _definition(q, k, function), rtol=1e-5)


def test_vector_of_zeros_is_read_as_zeros():
    q, k = (torch.zeros(1, 3, 1, 8, device=DEVICE, requires_grad=True) for _ in range(2))
    out = _by_triton(q, k, PairFunction("exp", "rms"))
    assert torch.equal(out.cpu(), torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand_as(out))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(out.sum(), (q, k)))


@pytest.mark.parametrize(("activation", "norm"), [("exp", "rms"), ("relu", "rms"), ("gelu", None), ("relu", None)])
@pytest.mark.parametrize("value", [torch.nan, 3e38])
def test_what_is_not_finite_shows_where_it_is_read_and_nowhere_else(activation, norm, value):
    q, k = (_on_device(x) for x in _inputs(4, 4, 1, 6, batch=2)[:2])
    function = PairFunction(activation, norm)
    before = _by_triton(q, k, function)
    k[1, 2, 0, 3] = value
    after = _by_triton(q, k, function)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1, :2], before[1, :2])
    if norm or value != value:
        assert torch.isnan(after[1, 2:] if norm else after[1, 2:, :, 3]).all()


@pytest.mark.parametrize("x", [-1e30, -200.0, -90.0, -1e-7, 0.0, 1e-7, 80.0, 1e30])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_hold_far_out(activation, x):
    q = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
    function = PairFunction(activation, None)
    value, expected = _by_triton(_on_device(q), _on_device(0 * q), function), _definition(q, 0 * q, function)
    assert torch.allclose(value.cpu(), expected.float(), rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0)])
def test_nothing_sums_to_nothing(batch, time):
    q, k = (torch.zeros(batch, steps, 2, 5, device=DEVICE, requires_grad=True) for steps in (time, 3))
    out = _by_triton(q, k, PairFunction("exp", "rms"))
    assert out.shape == q.shape
    assert all(not gradient.any() for gradient in torch.autograd.grad(out.sum(), (q, k)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("seen = (j[None, :] <= past + i[:, None]) & (j[None, :] < end)", "seen = j[None, :] < past + i[:, None]"),
        ("tl.sum(products, 2) * share", "tl.sum(products, 2) / (PARTS * one[0].shape[2])"),
        ("// KEYS * KEYS", "// KEYS * KEYS + KEYS"),
        ("first_that_sees_all) // QUERIES,", "first_that_sees_one) // QUERIES,"),
        ("channel[None, :] < width), 0.0)", "channel[None, :] < width), 1.0)"),
        ("+ head * q_head, i,", ", i,"),
    ],
)
@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize("large_tiles", [64], indirect=True)
def test_wrong_programs_are_found(tmp_path, monkeypatch, right, wrong):
    source = Path(triton_kernels.__file__).with_name("triton_passes.py").read_text(encoding="utf-8")
    assert right in source
    (tmp_path / "mutant.py").write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("mutant", tmp_path / "mutant.py")
    mutant = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutant", mutant)
    spec.loader.exec_module(mutant)
    monkeypatch.setattr(triton_kernels, "_passes", lambda: mutant)
    errors = _largest_errors(_inputs(9, 11, 2, 20), PairFunction("exp", "layer"))
    assert not max(errors) < WITHIN
