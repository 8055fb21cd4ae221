"""The table of rounding errors against what float32 does: each entry bounds it, and is not absurdly wide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from causalrn.bundle.tolerances import BOUND_FACTOR, UNIT_ROUNDOFF
from causalrn.runtimes.rounding.errors import _ERRORS, error_of
from causalrn.runtimes.rounding.kinds import EXACT, MOVES
from causalrn.runtimes.rounding.noise import RoundingNoise

ATEN = torch.ops.aten
WIDEST = 200.0
"""How many times the error that is seen the one of the table may be: both as a root of mean squares."""
_generator = torch.Generator().manual_seed(0)


def _normal(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=_generator) * scale


def _positive(*shape: int) -> Tensor:
    return _normal(*shape).abs() + 0.05


_A, _B, _P = _normal(64, 64), _normal(64, 64), _positive(64, 64)
_LOW = torch.tril(_normal(4, 32, 32, scale=0.2)) + torch.eye(32)
_Q, _K, _VALUES = _normal(2, 4, 40, 16), _normal(2, 4, 40, 16), _normal(2, 4, 40, 16)
_SEEN = (torch.rand(40, 40, generator=_generator) > 0.3) | torch.eye(40, dtype=torch.bool)
_ADDED = _normal(40, 40)
_SIGNAL, _KERNEL, _BIAS = _normal(2, 8, 40), _normal(8, 8, 4), _normal(8)
_SQUARE = _normal(4, 12, 12) + 4 * torch.eye(12)
_PLACES = torch.randint(16, (64, 64), generator=_generator)
_WEIGHT, _OFFSET = _normal(48), _normal(48)
_ATTENTION = ATEN.scaled_dot_product_attention.default

Case = tuple[Any, tuple[Any, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    "add": (ATEN.add.Tensor, (_A, _B), {}),
    "add times a number": (ATEN.add.Tensor, (_A, _B), {"alpha": 0.3}),
    "sub": (ATEN.sub.Tensor, (_A, _B), {}),
    "mul": (ATEN.mul.Tensor, (_A, _B), {}),
    "div": (ATEN.div.Tensor, (_A, _P), {}),
    "square": (ATEN.square.default, (_A,), {}),
    "lerp": (ATEN.lerp.Scalar, (_A, _B, 0.3), {}),
    "addcmul": (ATEN.addcmul.default, (_A, _B, _P), {"value": 0.7}),
    "addcdiv": (ATEN.addcdiv.default, (_A, _B, _P), {"value": 0.7}),
    "exp": (ATEN.exp.default, (_A,), {}),
    "log": (ATEN.log.default, (_P,), {}),
    "sqrt": (ATEN.sqrt.default, (_P,), {}),
    "rsqrt": (ATEN.rsqrt.default, (_P,), {}),
    "logaddexp": (ATEN.logaddexp.default, (_A, _B), {}),
    "hardswish": (ATEN.hardswish.default, (_A,), {}),
    "glu": (ATEN.glu.default, (_A,), {}),
    "log_sigmoid": (ATEN.log_sigmoid.default, (_A * 4,), {}),
    "silu": (ATEN.silu.default, (_A,), {}),
    "mish": (ATEN.mish.default, (_A,), {}),
    "gelu": (ATEN.gelu.default, (_A * 2,), {}),
    "gelu by tanh": (ATEN.gelu.default, (_A * 2,), {"approximate": "tanh"}),
    "elu": (ATEN.elu.default, (_A,), {}),
    "tanh, a function of each element": (ATEN.tanh.default, (_A,), {}),
    "sigmoid, likewise": (ATEN.sigmoid.default, (_A,), {}),
    "softplus, likewise": (ATEN.softplus.default, (_A,), {}),
    "a power, likewise": (ATEN.pow.Tensor_Scalar, (_P, 0.0625), {}),
    "rms_norm": (ATEN.rms_norm.default, (_normal(64, 48), [48], None, 1e-5), {}),
    "rms_norm with weights": (ATEN.rms_norm.default, (_normal(64, 48), [48], _WEIGHT, 1e-5), {}),
    "layer_norm": (ATEN.layer_norm.default, (_normal(64, 48) + 3, [48], None, None, 1e-5), {}),
    "layer_norm with weights": (ATEN.layer_norm.default, (_normal(64, 48) + 3, [48], _WEIGHT, _OFFSET, 1e-5), {}),
    "layer_norm of two axes": (ATEN.layer_norm.default, (_normal(64, 6, 8) + 3, [6, 8], None, None, 1e-5), {}),
    "group_norm": (ATEN.group_norm.default, (_normal(4, 8, 20), 4, _BIAS, _BIAS, 1e-5), {}),
    "instance_norm": (
        ATEN.instance_norm.default,
        (_normal(4, 8, 20), _BIAS, _BIAS, None, None, True, 0.1, 1e-5, False),
        {},
    ),
    "softmax": (ATEN.softmax.int, (_normal(64, 48, scale=3), -1), {}),
    "log_softmax": (ATEN.log_softmax.int, (_normal(64, 48, scale=3), -1), {}),
    "logsumexp": (ATEN.logsumexp.default, (_A, [1]), {}),
    "matmul": (ATEN.matmul.default, (_normal(64, 128), _normal(128, 64)), {}),
    "matmul of positive numbers": (ATEN.matmul.default, (_positive(64, 128), _positive(128, 64)), {}),
    "matmul of equal numbers": (ATEN.matmul.default, (torch.full((8, 512), 0.1), torch.full((512, 8), 0.3)), {}),
    "linear": (ATEN.linear.default, (_normal(64, 128), _normal(32, 128), _normal(32)), {}),
    "addmm": (ATEN.addmm.default, (_normal(32), _normal(64, 128), _normal(128, 32)), {}),
    "baddbmm": (ATEN.baddbmm.default, (_normal(4, 16, 8), _normal(4, 16, 64), _normal(4, 64, 8)), {}),
    "addbmm": (ATEN.addbmm.default, (_normal(16, 8), _normal(4, 16, 64), _normal(4, 64, 8)), {}),
    "addmv": (ATEN.addmv.default, (_normal(64), _normal(64, 128), _normal(128)), {}),
    "mm": (ATEN.mm.default, (_normal(64, 128), _normal(128, 64)), {}),
    "bmm": (ATEN.bmm.default, (_normal(4, 64, 128), _normal(4, 128, 64)), {}),
    "mv": (ATEN.mv.default, (_normal(64, 128), _normal(128)), {}),
    "dot": (ATEN.dot.default, (_normal(512), _normal(512)), {}),
    "sum": (ATEN.sum.dim_IntList, (_normal(64, 256), [1]), {}),
    "sum of everything": (ATEN.sum.default, (_normal(16, 64),), {}),
    "sum of all axes": (ATEN.sum.dim_IntList, (_normal(16, 64), None), {}),
    "nansum": (ATEN.nansum.default, (_normal(64, 256), [1]), {}),
    "mean": (ATEN.mean.dim, (_normal(64, 256), [1]), {}),
    "mean of everything": (ATEN.mean.default, (_normal(16, 64),), {}),
    "cumsum": (ATEN.cumsum.default, (_normal(8, 256), 1), {}),
    "cumsum of the first axis": (ATEN.cumsum.default, (_positive(256, 8), 0), {}),
    "logcumsumexp": (ATEN.logcumsumexp.default, (_normal(8, 256), 1), {}),
    "cumprod": (ATEN.cumprod.default, (torch.rand(8, 64, generator=_generator) * 0.2 + 0.8, 1), {}),
    "norm of vectors": (ATEN.linalg_vector_norm.default, (_A, 2, [-1]), {}),
    "norm of columns": (ATEN.linalg_vector_norm.default, (_normal(256, 8), 2, [0]), {}),
    "norm": (ATEN.norm.ScalarOpt_dim, (_A, 2, [1]), {}),
    "var": (ATEN.var.correction, (_A, [1]), {}),
    "std": (ATEN.std.correction, (_A, [1]), {}),
    "prod": (ATEN.prod.dim_int, (_normal(64, 32), 1), {}),
    "conv1d": (ATEN.conv1d.default, (_SIGNAL, _KERNEL, _BIAS), {}),
    "conv1d of each channel": (ATEN.conv1d.default, (_SIGNAL, _normal(8, 1, 4), _BIAS, [1], [3], [1], 8), {}),
    "conv1d with strides": (ATEN.conv1d.default, (_SIGNAL, _normal(8, 2, 4), None, [2], [3], [2], 4), {}),
    "convolution": (ATEN.convolution.default, (_SIGNAL, _KERNEL, _BIAS, [1], [0], [1], False, [0], 1), {}),
    "transposed convolution": (ATEN.convolution.default, (_SIGNAL, _KERNEL, _BIAS, [1], [0], [1], True, [0], 1), {}),
    "convolution of two axes": (
        ATEN.convolution.default,
        (_normal(2, 8, 9, 9), _normal(8, 8, 3, 3), _BIAS, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        {},
    ),
    "triangular system": (ATEN.linalg_solve_triangular.default, (_LOW, _normal(4, 32, 8)), {"upper": False}),
    "triangular system with ones": (
        ATEN.linalg_solve_triangular.default,
        (_LOW.tril(-1), _normal(4, 32, 8)),
        {"upper": False, "unitriangular": True},
    ),
    "triangular system on the right": (
        ATEN.linalg_solve_triangular.default,
        (_LOW, _normal(4, 8, 32)),
        {"upper": False, "left": False},
    ),
    "inverse": (ATEN.linalg_inv_ex.default, (_SQUARE,), {}),
    "system": (ATEN._linalg_solve_ex.default, (_SQUARE, _normal(4, 12, 3)), {}),
    "system of one vector each": (ATEN._linalg_solve_ex.default, (_SQUARE, _normal(4, 12)), {}),
    "system on the right": (ATEN._linalg_solve_ex.default, (_SQUARE, _normal(4, 3, 12)), {"left": False}),
    "scatter_add": (ATEN.scatter_add.default, (torch.zeros(8, 16), 1, _PLACES[:8], _A[:8]), {}),
    "index_add": (ATEN.index_add.default, (torch.zeros(16, 64), 0, _PLACES[0], _A), {"alpha": 0.3}),
    "index_put": (ATEN.index_put.default, (torch.zeros(16), [_PLACES[0]], _A[0], True), {}),
    "avg_pool2d": (ATEN.avg_pool2d.default, (_SIGNAL, [4, 4]), {}),
    "avg_pool3d": (ATEN.avg_pool3d.default, (_SIGNAL[None], [2, 4, 4]), {}),
    "pooled to a size": (ATEN._adaptive_avg_pool2d.default, (_SIGNAL, [2, 5]), {}),
    "pooled to a size of three axes": (ATEN._adaptive_avg_pool3d.default, (_SIGNAL[None], [1, 2, 5]), {}),
    "attention": (_ATTENTION, (_Q, _K, _VALUES), {}),
    "causal attention": (_ATTENTION, (_Q, _K, _VALUES, None, 0.0, True), {}),
    "attention with a mask": (_ATTENTION, (_Q, _K, _VALUES, _SEEN), {}),
    "attention with numbers added": (_ATTENTION, (_Q, _K, _VALUES, _ADDED), {}),
    "attention with infinity added": (_ATTENTION, (_Q, _K, _VALUES, _ADDED.masked_fill(~_SEEN, -math.inf)), {}),
    "attention with a scale": (_ATTENTION, (_Q, _K, _VALUES), {"scale": 1.0}),
    "attention of shared heads": (_ATTENTION, (_Q, _K[:, :2], _VALUES[:, :2]), {"enable_gqa": True}),
    "attention of few queries": (_ATTENTION, (_Q[:, :, :7], _K, _VALUES), {}),
}


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


@pytest.mark.parametrize("name", CASES)
def test_table_bounds_the_error_of_float32(name: str) -> None:
    function, given, named = CASES[name]
    magnitude = error_of(function)
    assert magnitude is not None
    wide = [_wide(value) for value in given]
    exact = _first(function(*wide, **named))
    seen = (_first(function(*given, **named)).double() - exact).abs() / UNIT_ROUNDOFF
    told = magnitude(exact, *wide, **named).expand_as(seen)
    assert bool((seen <= BOUND_FACTOR * told).all()), float((seen / told).max())
    typical = seen.maximum(exact.abs() / 4)  # a single number may be right by luck
    assert float(told.square().mean().sqrt()) <= WIDEST * float(typical.square().mean().sqrt())


def test_every_entry_of_the_table_has_a_case() -> None:
    assert {function.overloadpacket.__name__ for function, _, _ in CASES.values()} >= _ERRORS.keys()


def _noisy(function: Callable[..., Any], *given: Tensor, seed: int = 0) -> Any:
    with torch.inference_mode(), RoundingNoise(seed):
        return function(*given)


@pytest.mark.parametrize(
    "function",
    [
        *(torch.neg, torch.abs, f.relu, torch.floor, torch.clone, torch.sign, torch.isfinite, torch.t, torch.flatten),
        lambda x: torch.where(x > 0, x, -x),
        lambda x: x.clamp(-0.5, 0.5),
        lambda x: torch.maximum(x, x.flip(0)),
        lambda x: x.masked_fill(x > 0, 2.0),
        lambda x: torch.cat([x, x])[3:].roll(1, 0),
        lambda x: torch.stack(x.chunk(2), 1).repeat_interleave(2, 0),
        lambda x: f.embedding(torch.arange(5), x),
        lambda x: f.pad(x, (2, 1)),
        lambda x: x.gather(1, torch.zeros(64, 2, dtype=torch.int64)),
        lambda x: x.sort(1).values,
        lambda x: x.tril(-1).triu(-3),
        lambda x: f.dropout(x, 0.5, training=False),
        lambda x: x.max(1).values,
        lambda x: x.topk(3).values,
        lambda x: x.index_put((torch.arange(3),), x[3:6]),
        lambda x: x.scatter(1, torch.zeros(64, 2, dtype=torch.int64), x),
        lambda x: f.max_pool1d(x, 2),
        lambda x: torch.zeros_like(x) + 0.0 * x.new_ones(64),
        lambda x: torch.view_as_real(torch.complex(x, x).conj().resolve_conj()),
    ],
)
def test_operations_that_do_not_round_are_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    x = _A.double()
    assert torch.equal(_noisy(function, x), function(x))


@pytest.mark.parametrize(
    ("function", "at_least"),
    [
        (lambda x: torch.einsum("ij,jk->ik", x, x), 20.0),
        (lambda x: f.batch_norm(x, x[0], x[1].abs() + 0.1, x[2], x[3]), 1.0),
        (lambda x: f.instance_norm(x[None]), 0.5),
        (lambda x: f.logsigmoid(x), 0.5),
        (lambda x: torch.outer(x[0], x[1]), 0.5),
        (lambda x: f.normalize(x, dim=-1), 0.1),
        (lambda x: torch.tensordot(x, x, 1), 20.0),
        (lambda x: f.conv2d(x[None, None], x[None, None, :3, :3]), 1.0),
    ],
)
def test_operations_of_several_parts_are_perturbed_in_them(
    function: Callable[[Tensor], Tensor], at_least: float
) -> None:
    x = _A.double()
    error = float((_noisy(function, x) - function(x)).abs().max()) / UNIT_ROUNDOFF
    seen = float((function(_A).double() - function(x)).abs().max()) / UNIT_ROUNDOFF
    assert error > at_least
    assert seen / BOUND_FACTOR <= error <= WIDEST * seen


@pytest.mark.parametrize("layer", [nn.LSTM(8, 8, batch_first=True), nn.GRU(8, 8, 2), nn.RNN(8, 8)], ids=str)
def test_recurrent_layers_are_perturbed_at_every_step(layer: nn.Module) -> None:
    layer, x = layer.double().eval(), _normal(3, 12, 8).double()
    with torch.inference_mode():
        exact, noisy = layer(x)[0], _noisy(layer, x)[0]
        seen = layer.float()(x.float())[0].double() - exact
    errors = (noisy - exact).abs().amax((0, 2)) / UNIT_ROUNDOFF
    assert bool((errors > 0.1).all())
    assert float(errors.max()) >= float(seen.abs().max()) / UNIT_ROUNDOFF / BOUND_FACTOR


@pytest.mark.parametrize(
    "function",
    [
        *(torch.linalg.inv, torch.matrix_exp, torch.linalg.det, lambda x: torch.linalg.solve(x, x[0])),
        *(lambda x: torch.linalg.qr(x)[1], lambda x: torch.linalg.lu_factor(x)[0], lambda x: torch.cdist(x, x + 1)),
        *(lambda x: torch.fft.rfft(x).abs(), lambda x: torch.fft.irfft(torch.fft.rfft(x))),
        *(lambda x: torch.view_as_real(torch.fft.fft(x)), lambda x: x.scatter_add(0, _PLACES[:12, :12] % 12, x)),
        *(lambda x: x.index_add(0, _PLACES[0, :12] % 12, x), lambda x: f.avg_pool1d(x[None], 3)),
        *(lambda x: torch.var_mean(x, 1)[0], lambda x: torch.var_mean(x, 1)[1]),
        lambda x: torch.linalg.cholesky(x @ x.T + 12 * torch.eye(12, dtype=x.dtype)),
        lambda x: f.batch_norm(x, x[0], x[1].abs() + 0.1, training=False),
        lambda x: x.scatter_reduce(0, _PLACES[:12, :12] % 12, x, "mean"),
        lambda x: f.interpolate(x[None, None], scale_factor=3, mode="bilinear"),
    ],
)
def test_operations_of_any_kind_are_perturbed_by_what_they_may_round(function: Callable[[Tensor], Tensor]) -> None:
    x = _SQUARE[0].double()
    error = float((_noisy(function, x) - function(x)).abs().max()) / UNIT_ROUNDOFF
    seen = float((function(_SQUARE[0]).double() - function(x)).abs().max()) / UNIT_ROUNDOFF
    assert error > 0.1
    assert seen / BOUND_FACTOR <= error <= WIDEST * max(seen, float(function(x).abs().max()))


@pytest.mark.parametrize(
    "function",
    [
        *(
            lambda z: z * z.flip(0),
            lambda z: z @ z,
            lambda z: z + z.flip(0),
            lambda z: z.exp(),
            lambda z: z / z.flip(1),
        ),
        *(lambda z: z.cumsum(0), lambda z: z.sum(0), lambda z: torch.polar(z.abs(), z.angle()), lambda z: z * 2j),
        lambda z: f.linear(z, z, z[0]),
    ],
)
def test_both_parts_of_complex_numbers_are_perturbed(function: Callable[[Tensor], Tensor]) -> None:
    z = torch.complex(_SQUARE[0], _SQUARE[1])
    wide = z.to(torch.complex128)
    exact = torch.view_as_real(function(wide))
    errors = (torch.view_as_real(_noisy(function, wide)) - exact).abs().amax((0, 1)) / UNIT_ROUNDOFF
    seen = (torch.view_as_real(function(z)).double() - exact).abs().amax((0, 1)) / UNIT_ROUNDOFF
    assert bool((errors > 0.1).all())
    assert bool((seen / BOUND_FACTOR <= errors).all())
    assert float(errors.max()) <= WIDEST * float(seen.max().clamp_min(1))


def test_moves_have_no_error_of_their_own() -> None:
    assert not (MOVES | EXACT) & _ERRORS.keys()
