"""LN0: what the official one gets wrong, and gradients."""

import pytest
import torch

from causalrn.model.normalization import centre
from causalrn.model.operators.kernels import using_kernel
from causalrn.model.operators.normalize import normalize, normalize_sums
from causalrn.model.readouts import naive
from tests.c_tools import needs_c_compiler


@pytest.fixture(params=[pytest.param("c", marks=needs_c_compiler), "tiles"], autouse=True)
def kernel(request):
    with using_kernel(request.param):
        yield


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_normalize_equals_definition(norm, scale):
    x = scale * torch.randn(50, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalize(x, norm), naive.ln0(x, norm), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e20])
def test_constant_vector_gives_zeros(dtype, value):
    x = torch.full((2, 192), value, dtype=dtype)
    assert torch.equal(normalize(x, "layer"), torch.zeros_like(x))
    assert torch.equal(centre(x), torch.zeros_like(x))


def test_zero_vector_gives_zeros_with_rms():
    assert torch.equal(normalize(torch.zeros(3, 8), "rms"), torch.zeros(3, 8))


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_overflow_gives_nan(norm, eps):
    x = torch.tensor([[1e30, -1e30, 0.0]])
    assert normalize(x, norm, eps).isnan().all()


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_eps_stands_beside_the_root_and_not_under_it(norm):
    x = torch.tensor([[3.0, -3.0, 3.0, -3.0]], dtype=torch.float64)  # rms 3, no mean
    assert torch.allclose(normalize(x, norm, 0.5), x / 3.5, rtol=1e-15)
    assert torch.equal(normalize(torch.zeros(2, 4), norm, 0.5), torch.zeros(2, 4))


def test_layer_norm_of_two_channels_is_a_sign_and_exactly_so():
    """x - mean rounds the two differently, which is 1e-2 off where they nearly agree."""
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0] + 1e-6 * x[:, 1]
    expected = torch.sign(x[:, :1].double() - x[:, 1:].double())
    assert (normalize(x, "layer").double() - torch.cat([expected, -expected], 1)).abs().max() <= 2.0**-22


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_sums_whose_squares_overflow_are_normalized_with_their_eps(scale):
    o = (scale * torch.rand(5, 7, generator=torch.Generator().manual_seed(0))).float()
    expected = naive.ln0(o.double(), "layer", 1e-2)
    assert torch.allclose(normalize_sums(o, "layer", 1e-2).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-2, 0.7])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_gradient_is_right(norm, eps):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda value: normalize(value, norm, eps), x)


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_gradient_of_constant_vector_is_finite(eps):
    x = torch.ones(1, 6, requires_grad=True)
    normalize(x, "layer", eps).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
